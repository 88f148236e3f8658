"""Matches rows of a user's own export with API plays, and account data with the extended export.

Three lists show one play: the API (`played_at`, milliseconds: mostly its end, sometimes its start),
the extended export (`ended_at`, seconds) and account data (the minute, names only). One play is one
play, and two genuine plays are never merged: every match is one to one. Instants are aware, UTC.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import md5
from typing import Literal

from spotify_pipeline.domain.listening.recordings import Recording, recording_groups
from spotify_pipeline.domain.model import COUNTED_FROM_MS

ExportSource = Literal["extended", "account"]

# Two clocks see one event. Plays of one track are at least 30 s apart, so this merges no two.
SAME_WITHIN = timedelta(seconds=5)
# A skip right after a play of the same track ends this near to it, and the API hardly lists skips.
SHORT_SAME_WITHIN = timedelta(seconds=2)
# Account data has no seconds.
MINUTE = timedelta(minutes=1)
# An offline play is uploaded up to this much later; then `ended_at` is the upload.
LONGEST_OFFLINE = timedelta(days=31)

# Begins the ids of artists and tracks that exports only name. No id of Spotify's has a colon.
NAMED = "name:"

# ended_at, track_id, ms_played, source: no two rows of a user are equal in all four.
RowKey = tuple[datetime, str, int, ExportSource]
# played_at, track_id
PlayKey = tuple[datetime, str]


def named_id(*names: str) -> str:
    """The id of an artist (name) or a track (artist's name, title) that an export only names."""
    text = "\0".join(names).encode()
    return NAMED + md5(text, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class ExportedTrack:
    """A track as an export describes it."""

    track_id: str
    name: str
    artist_name: str
    album_name: str | None

    @property
    def artist_id(self) -> str:
        """The id of the artist of that name, while the API has shown none."""
        return named_id(self.artist_name)


@dataclass(frozen=True, slots=True)
class ExportedPlay:
    """A row of an export. In `recording`, `artist_id` is the artist's name."""

    ended_at: datetime
    ms_played: int
    source: ExportSource
    recording: Recording
    offline_started_at: datetime | None = None

    @property
    def key(self) -> RowKey:
        """Identifies the row among those of a user."""
        return self.ended_at, self.recording.track_id, self.ms_played, self.source


@dataclass(frozen=True, slots=True)
class ListedPlay:
    """A stored API play and every instant under which the API has shown it.

    In `recording`, `artist_id` is the artist's name.
    """

    played_at: datetime
    recording: Recording
    shown_at: tuple[datetime, ...]

    @property
    def key(self) -> PlayKey:
        """Identifies the play among those of a user."""
        return self.played_at, self.recording.track_id


@dataclass(frozen=True, slots=True)
class ExportMatch:
    """Which API play a row is, and which extended row an account row repeats."""

    listed: dict[RowKey, PlayKey]
    superseded: dict[RowKey, RowKey]


def match_export(rows: Sequence[ExportedPlay], listed: Sequence[ListedPlay]) -> ExportMatch:
    """Pairs rows with API plays, and account rows with extended rows, each one to one.

    The result does not depend on the order of the arguments. An account row is the extended row of
    the same recording, minute and `ms_played`. A row is the API play of the same recording whose
    instant is nearest to its end; for an offline play also to its end or start by the device's
    clock. The start of another row is no match: it is the end of the play before it, and where
    either list lacks one of two repeats they would be merged. Rows of 30 s or more go first,
    because the API hardly lists shorter ones.
    """
    group = _group_numbers([*rows, *listed])
    superseded = _superseded(rows, group)
    instants = defaultdict(list)
    for play in listed:
        for instant in play.shown_at:
            instants[group[play.recording]].append((instant, play.key))
    for near in instants.values():
        near.sort()
    pairs = sorted(
        (row.ms_played < COUNTED_FROM_MS, rank, distance, play_key, row.key)
        for row in rows
        if row.key not in superseded
        for rank, distance, play_key in _candidates(row, instants.get(group[row.recording], []))
    )
    matched: dict[RowKey, PlayKey] = {}
    taken: set[PlayKey] = set()
    for *_, play_key, row_key in pairs:
        if row_key not in matched and play_key not in taken:
            matched[row_key] = play_key
            taken.add(play_key)
    return ExportMatch(matched, superseded)


def _group_numbers(plays: Sequence[ExportedPlay | ListedPlay]) -> dict[Recording, int]:
    recordings = list(dict.fromkeys(play.recording for play in plays))
    return dict(zip(recordings, recording_groups(recordings), strict=True))


def _superseded(rows: Sequence[ExportedPlay], group: dict[Recording, int]) -> dict[RowKey, RowKey]:
    extended: dict[Hashable, list[RowKey]] = defaultdict(list)
    for row in rows:
        if row.source == "extended":
            minute = row.ended_at.replace(second=0, microsecond=0)
            extended[group[row.recording], minute, row.ms_played].append(row.key)
    for same in extended.values():
        same.sort(reverse=True)
    superseded = {}
    for row in sorted(rows, key=lambda row: row.key):
        if row.source == "account":
            same = extended.get((group[row.recording], row.ended_at, row.ms_played), [])
            if same:
                superseded[row.key] = same.pop()
    return superseded


def _candidates(
    row: ExportedPlay, instants: list[tuple[datetime, PlayKey]]
) -> Iterator[tuple[int, timedelta, PlayKey]]:
    """The API plays that the row may be: rank of the kind of match, distance, key."""
    if not instants:
        return
    within = SAME_WITHIN if row.ms_played >= COUNTED_FROM_MS else SHORT_SAME_WITHIN
    for rank, (first, last) in enumerate(_moments(row)):
        at = bisect_left(instants, (first - within,))
        while at < len(instants) and instants[at][0] <= last + within:
            instant, key = instants[at]
            # 0 inside account data's minute.
            yield rank, max(first - instant, instant - last, timedelta()), key
            at += 1


def _moments(row: ExportedPlay) -> Iterator[tuple[datetime, datetime]]:
    """When the API may have seen the play, as spans: the likeliest first."""
    yield row.ended_at, row.ended_at + (MINUTE if row.source == "account" else timedelta())
    if row.offline_started_at is not None:
        ended_at = row.offline_started_at + timedelta(milliseconds=row.ms_played)
        yield ended_at, ended_at
        yield row.offline_started_at, row.offline_started_at
