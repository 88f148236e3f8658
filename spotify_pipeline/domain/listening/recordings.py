"""Deduplicates plays: finds items of a page that are stored under another track id or instant.

Spotify relinks (the same play returns with another track id) and re-stamps (the same play returns
with a `played_at` that differs by up to a minute, and the old instant disappears). Without this
such a play would be stored twice. All instants are aware, UTC.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spotify_pipeline.domain.model import Play, Track

# Observed when Spotify re-stamped a whole feed: 0.8 to 31 s earlier, one play 55.7 s later.
RESTAMPED_WITHIN = timedelta(seconds=60)
# The maximum distance of a play from its stored instant after several re-stampings.
MOVED_WITHIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording's identity: its id, otherwise its ISRC, otherwise name and primary artist."""

    track_id: str
    isrc: str | None
    name: str
    artist_id: str | None

    @classmethod
    def of(cls, track: Track) -> "Recording":
        """The recording of a track as sent."""
        return cls(track.spotify_id, track.isrc, track.name, track.artist_ids[0])

    def identities(self) -> Iterator[Hashable]:
        """Keys of the recording: two recordings that share a key are the same."""
        yield "id", self.track_id
        if self.isrc:
            yield "isrc", self.isrc
        if self.name and self.artist_id:
            yield "name", self.name, self.artist_id


@dataclass(frozen=True, slots=True)
class StoredPlay:
    """A stored API play and the instants under which pages have shown it, `played_at` first."""

    played_at: datetime
    recording: Recording
    shown_at: tuple[datetime, ...]

    @property
    def last_shown_at(self) -> datetime:
        """The instant under which the newest page that re-stamped the play showed it."""
        return self.shown_at[-1]


@dataclass(frozen=True, slots=True)
class Restamped:
    """A page item that is a stored play under another instant."""

    play: Play
    stored: StoredPlay


@dataclass(frozen=True, slots=True)
class PageMatch:
    """The result of comparing a page with the stored plays.

    `new` are the plays to store. `restamped` are stored plays whose instant is new. `seen` are the
    instants of all items already stored. `not_shown` are those of stored plays not on the page.
    """

    new: tuple[Play, ...]
    restamped: tuple[Restamped, ...]
    seen: frozenset[datetime]
    not_shown: frozenset[datetime]


def match_page(
    plays: Sequence[Play],
    tracks: Mapping[str, Track],
    stored: Sequence[StoredPlay],
    span_start: datetime | None,
) -> PageMatch:
    """Separates the new plays of a page from those stored under another id or instant.

    `stored` are the API plays since MOVED_WITHIN before `span_start`, the instant since which the
    page shows every play. Two items of one page are two plays, however close.
    """
    recordings = [Recording.of(tracks[play.track_id]) for play in plays]
    group = recording_groups([*recordings, *(known.recording for known in stored)])
    of_stored = group[len(plays) :]
    shown = {
        (instant, number): index
        for index, (known, number) in enumerate(zip(stored, of_stored, strict=True))
        for instant in known.shown_at
    }
    on_page = {index: shown.get((play.played_at, group[index])) for index, play in enumerate(plays)}
    present = {index for index in on_page.values() if index is not None}
    unknown = [index for index, found in on_page.items() if found is None]
    vanished = [index for index in range(len(stored)) if index not in present]
    inside = [
        index
        for index in vanished
        if span_start is not None and stored[index].last_shown_at >= span_start
    ]

    matched: dict[int, int] = {}

    def match(among: Iterable[int], instant: Callable[[StoredPlay], datetime]) -> None:
        """Pairs the unmatched items with the unmatched of these vanished plays."""
        taken = set(matched.values())
        matched.update(
            _pairs(
                [(group[i], plays[i].played_at, i) for i in unknown if i not in matched],
                [(of_stored[i], instant(stored[i]), i) for i in among if i not in taken],
            )
        )

    match(inside, lambda play: play.last_shown_at)
    # A play that returned to its stored instant may be re-stamped again from there.
    match(inside, lambda play: play.played_at)
    if matched:
        # The page was re-stamped, so a play from just before its start may have moved into it.
        match(vanished, lambda play: play.last_shown_at)
    restamped = [Restamped(plays[i], stored[s]) for i, s in sorted(matched.items())]
    gone = set(vanished) - set(matched.values())
    return PageMatch(
        new=tuple(plays[index] for index in unknown if index not in matched),
        restamped=tuple(restamped),
        seen=frozenset(
            play.played_at
            for index, play in enumerate(plays)
            if on_page[index] is not None or index in matched
        ),
        not_shown=frozenset(stored[index].last_shown_at for index in gone),
    )


def without_relinked(plays: Sequence[tuple[Play, Track]]) -> Iterator[tuple[Play, Track]]:
    """Drops plays that repeat a recording at the same instant; keeps the first one."""
    by_instant: dict[datetime, list[int]] = defaultdict(list)
    for index, (play, _) in enumerate(plays):
        by_instant[play.played_at].append(index)
    repeated: set[int] = set()
    for indexes in by_instant.values():
        if len(indexes) > 1:
            groups = recording_groups([Recording.of(plays[index][1]) for index in indexes])
            first = dict(reversed(list(zip(groups, indexes, strict=True))))
            repeated |= set(indexes) - set(first.values())
    return (pair for index, pair in enumerate(plays) if index not in repeated)


def recording_groups(recordings: Sequence[Recording]) -> list[int]:
    """A group number per recording, equal for the same recordings: union-find over identities."""
    parent = list(range(len(recordings)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[Hashable, int] = {}
    for index, recording in enumerate(recordings):
        for key in recording.identities():
            parent[root(index)] = root(first.setdefault(key, index))
    return [root(index) for index in range(len(recordings))]


def _pairs(
    items: Iterable[tuple[int, datetime, int]], vanished: Iterable[tuple[int, datetime, int]]
) -> dict[int, int]:
    """Matches items with vanished plays of the same group within a minute, as many as possible.

    Both are (group, instant, index). Greedy in order of time, which is optimal for a fixed
    distance. Returns the index of the vanished play by the index of the item.
    """
    queues: dict[int, list[tuple[datetime, int]]] = defaultdict(list)
    for number, instant, index in sorted(vanished):
        queues[number].append((instant, index))
    next_in: dict[int, int] = defaultdict(int)
    matched: dict[int, int] = {}
    for number, instant, index in sorted(items):
        queue = queues.get(number, [])
        while next_in[number] < len(queue) and (
            queue[next_in[number]][0] < instant - RESTAMPED_WITHIN
        ):
            next_in[number] += 1
        index_in_queue = next_in[number]
        if index_in_queue < len(queue) and queue[index_in_queue][0] <= instant + RESTAMPED_WITHIN:
            matched[index] = queue[index_in_queue][1]
            next_in[number] += 1
    return matched
