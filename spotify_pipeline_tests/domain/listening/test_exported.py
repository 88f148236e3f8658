"""Matching an export with API plays: recall and precision on generated lives."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.listening.exported import (
    ExportedPlay,
    ListedPlay,
    PlayKey,
    RowKey,
    match_export,
)
from spotify_pipeline.domain.listening.recordings import Recording
from spotify_pipeline_tests.storage.rows import NOON

MS = timedelta(milliseconds=1)


def recording(song: int, *, relinked: bool = False) -> Recording:
    """One of a few songs; a relinked one has another id and is equal by its names."""
    return Recording(f"song{song}{'b' if relinked else ''}", None, f"Song {song}", f"Singer {song}")


def life(
    random_: random.Random, plays: int
) -> tuple[list[ExportedPlay], list[ListedPlay], dict[RowKey, PlayKey], dict[RowKey, RowKey]]:
    """Rows, API plays, and which of them are the same play; account rows, and what they repeat.

    With pauses, back-to-back repeats, offline plays that were uploaded late and are listed by start
    or end, relinked tracks, plays that only one list has, and clocks that differ.
    """
    rows: list[ExportedPlay] = []
    listed: list[ListedPlay] = []
    same: dict[RowKey, PlayKey] = {}
    superseded: dict[RowKey, RowKey] = {}
    clock, song = NOON, 0
    for number in range(plays):
        before, song = song, song if random_.random() < 0.3 else random_.randrange(8)
        ms = random_.choice([2_000, 20_000, 31_000, 95_000, 180_000, 240_001])
        pause = random_.choice([0, 0, 0, 400, 30_000, 3_600_000])
        started = clock + random_.choice([0, 0, 700]) * MS
        clock = started + (ms + pause) * MS
        exported = random_.random() < 0.97
        in_api = ms >= 30_000 and random_.random() < 0.97
        offline = random_.random() < 0.05
        ended_at = clock.replace(microsecond=0) + random_.choice([0, 1]) * timedelta(seconds=1)
        shown = clock + random_.uniform(-900, 900) * MS
        if offline:
            ended_at += random_.choice([3_600, 20_000, 400_000]) * timedelta(seconds=1)
            # Not by its start after a repeat: that instant is the end of the play before, too, and
            # it is unknown which of the two the API shows.
            moments = [started + ms * MS] + ([] if song == before else [started])
            shown = random_.choice(moments) + random_.uniform(-900, 900) * MS
        row = ExportedPlay(
            ended_at,
            # Unique, so that rows of one second can be distinguished.
            ms + number,
            "extended",
            recording(song, relinked=random_.random() < 0.05),
            started if offline else None,
        )
        play = ListedPlay(shown, recording(song), (shown,))
        if exported:
            rows.append(row)
        if in_api:
            listed.append(play)
        if exported and in_api:
            same[row.key] = play.key
        if exported and random_.random() < 0.3:
            minute = ended_at.replace(second=0)
            named = replace(row.recording, track_id=f"name:{song}")
            account = ExportedPlay(minute, row.ms_played, "account", named)
            rows.append(account)
            superseded[account.key] = row.key
    return rows, listed, same, superseded


def test_a_match_has_high_recall_and_precision(
    record_property: Callable[[str, object], None],
) -> None:
    found = wrong = total = 0
    for seed in range(20):
        rows, listed, same, superseded = life(random.Random(seed), 500)
        match = match_export(rows, listed)
        assert match.superseded == superseded
        total += len(same)
        found += sum(match.listed.get(row) == play for row, play in same.items())
        wrong += sum(same.get(row) != play for row, play in match.listed.items())
    recall, precision = found / total, 1 - wrong / (found + wrong)
    record_property("figure", f"imports: recall {recall:.4%}, precision {precision:.4%}")
    assert recall >= 0.999
    assert precision >= 0.999


@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_a_match_is_one_to_one_in_any_order(seed: int, shuffle: random.Random) -> None:
    rows, listed, _, _ = life(random.Random(seed), 60)
    match = match_export(rows, listed)
    assert len(set(match.listed.values())) == len(match.listed)
    assert len(set(match.superseded.values())) == len(match.superseded)
    assert not match.listed.keys() & match.superseded.keys()
    shuffle.shuffle(rows)
    shuffle.shuffle(listed)
    assert match_export(rows, listed) == match
