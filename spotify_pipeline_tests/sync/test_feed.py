"""The feed as Spotify serves it: re-stamped, relinked, emptied, changed; numbers stay right."""

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from spotify_pipeline.domain.coverage import SERVED_WINDOW
from spotify_pipeline.domain.steps import DAILY_LISTENING, MUSIC_PERSONALITY, RECENTLY_PLAYED
from spotify_pipeline.simulator.faults.refusals import Body
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.sync.stage import NOON, Heard, Stage, track_body

DAYS = (RECENTLY_PLAYED, DAILY_LISTENING)
REBUILD = (DAILY_LISTENING, MUSIC_PERSONALITY)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
TODAY = date(2026, 3, 4)
FACTS = (t.plays, t.restamped_plays, t.daily_listening)


def before(minutes: float) -> datetime:
    return NOON - minutes * MINUTE


def every_4_minutes(count: int) -> list[Heard]:
    """Newest first, each of another track."""
    return [(before(5 + 4 * n), f"t{n}") for n in range(count)]


def look(
    stage: Stage,
    user: str,
    heard: Sequence[Heard],
    tracks: dict[str, dict[str, Any]] | None = None,
    *,
    at: datetime = NOON,
    more: bool = False,
) -> None:
    stage.serve_plays(user, heard, tracks=tracks, more=more)
    stage.clock.instant = at
    stage.sync_well(user, steps=DAYS)


def played_at(stage: Stage, user: str) -> list[datetime]:
    return [row["played_at"] for row in stage.rows(t.plays, user)]


def day(stage: Stage, user: str, of: date = TODAY) -> tuple[int, int]:
    """Minutes and plays."""
    (row,) = [row for row in stage.rows(t.daily_listening, user) if row["date"] == of]
    return row["minutes"], row["plays"]


def rebuilt_is_equal(stage: Stage, *users: str) -> bool:
    def stored() -> list[dict[str, Any]]:
        rows = [row for table in FACTS for user in users for row in stage.rows(table, user)]
        return [{name: row[name] for name in row if name != "computed_at"} for row in rows]

    before_it = stored()
    stage.sync_well(*users, steps=REBUILD)
    return stored() == before_it


def test_an_emptied_track_takes_nothing_from_users_who_heard_it_before(stage: Stage) -> None:
    stage.connect("bob")
    stage.connect("ann")
    look(stage, "bob", [(before(10), "t")], {"t": {"duration_ms": 300_000}})
    look(stage, "ann", [(before(20), "t")], {"t": {"name": "", "duration_ms": 0}})
    stage.sync_well("ann", "bob", steps=REBUILD)
    assert day(stage, "bob") == (5, 1)
    # The catalogue knew the length, so the emptied play has it as well.
    assert day(stage, "ann") == (5, 1)
    (track,) = stage.rows(t.tracks)
    assert (track["name"], track["duration_ms"]) == ("Song t", 300_000)


def test_a_length_learned_later_is_given_to_the_plays_that_lack_it(stage: Stage) -> None:
    stage.connect("ann")
    stage.connect("bob")
    look(stage, "ann", [(before(20), "t")], {"t": {"name": " ", "duration_ms": 0}})
    assert day(stage, "ann") == (0, 1)
    look(stage, "bob", [(before(10), "t")], {"t": {"duration_ms": 300_000}})
    look(stage, "ann", [(before(20), "t")], {"t": {"name": "", "duration_ms": 0}})
    assert day(stage, "ann") == (5, 1)
    assert rebuilt_is_equal(stage, "ann", "bob")


def test_an_emptied_name_in_a_top_list_keeps_the_known_one(stage: Stage) -> None:
    stage.connect("ann")
    stage.sync_well("ann")
    shown = {row["spotify_id"]: row["name"] for row in stage.rows(t.user_top_tracks, "ann")}
    body = {
        "items": [track_body(id_) | {"name": "", "duration_ms": 0} for id_ in sorted(shown)],
        "next": None,
    }
    stage.simulator.add_fault(Body(text=json.dumps(body)), endpoint="top_tracks")
    stage.sync_well("ann")
    assert {row["name"] for row in stage.rows(t.user_top_tracks, "ann")} <= {*shown.values()}
    assert all(row["name"] for row in stage.rows(t.tracks) if row["spotify_id"] in shown)


@pytest.mark.parametrize(
    "change",
    [
        {"duration_ms": 201_000},
        {"artists": [{"id": "another", "name": "Another"}]},
        {"name": "Song (2026 Remaster)"},
        {"album": {"id": "b", "name": "B", "images": [], "release_date": "2026-03-01"}},
    ],
)
def test_a_day_does_not_change_when_the_catalogue_does(
    stage: Stage, change: dict[str, Any]
) -> None:
    stage.connect("cy")
    old = {
        "duration_ms": 200_000,
        "album": {"id": "a", "name": "A", "images": [], "release_date": "2001-01-01"},
    }
    yesterday = NOON - timedelta(days=1)
    look(stage, "cy", [(yesterday, "t")], {"t": old}, at=yesterday + MINUTE)
    first = stage.rows(t.plays, "cy")
    look(stage, "cy", [(before(5), "t"), (yesterday, "t")], {"t": old | change})
    assert day(stage, "cy", TODAY - timedelta(days=1)) == (3, 1)
    assert stage.rows(t.plays, "cy")[:1] == first
    assert rebuilt_is_equal(stage, "cy")
    assert stage.rows(t.plays, "cy")[:1] == first


def test_a_page_that_was_restamped_is_not_stored_again(stage: Stage) -> None:
    stage.connect("ann")
    heard = every_4_minutes(20)
    look(stage, "ann", heard)
    before_it = (played_at(stage, "ann"), day(stage, "ann"))
    shifted = [(at - (0.8 + 1.5 * n) * SECOND, track) for n, (at, track) in enumerate(heard)]
    for _ in range(2):  # and at the next poll neither
        look(stage, "ann", shifted, at=NOON + MINUTE)
        assert (played_at(stage, "ann"), day(stage, "ann")) == before_it
    newer = (NOON + 2 * MINUTE, "new")
    look(stage, "ann", [newer, *shifted], at=NOON + 3 * MINUTE)
    assert len(played_at(stage, "ann")) == 21
    assert stage.rows(t.listening_gaps, "ann") == []
    assert rebuilt_is_equal(stage, "ann")


def test_a_restamped_play_is_known_when_it_is_the_oldest_of_a_full_page_later(
    stage: Stage,
) -> None:
    stage.connect("ann")
    heard = every_4_minutes(20)
    look(stage, "ann", heard, more=True)
    # The oldest one was moved to a later instant, the others to earlier ones.
    oldest, *_ = reversed(heard)
    shifted = [(at - 9 * SECOND, track) for at, track in heard[:-1]]
    late = (oldest[0] + 55 * SECOND, oldest[1])
    look(stage, "ann", [*shifted, late], at=NOON + MINUTE, more=True)
    look(stage, "ann", [(NOON, "new"), *shifted, late], at=NOON + 2 * MINUTE, more=True)
    assert len(played_at(stage, "ann")) == 21


def test_whichever_version_comes_first_the_day_has_each_play_once(stage: Stage) -> None:
    heard = every_4_minutes(20)
    shifted = [(at - 20 * SECOND, track) for at, track in heard]
    stage.connect("ann")
    stage.connect("bob")
    for user, versions in (("ann", (heard, shifted)), ("bob", (shifted, heard))):
        for version in versions:
            look(stage, user, version)
    assert day(stage, "ann") == day(stage, "bob") == (60, 20)


def test_an_empty_first_page_makes_no_day_before_the_last_week_complete(stage: Stage) -> None:
    stage.connect("ann")
    look(stage, "ann", [])
    (cover,) = stage.rows(t.coverage, "ann")
    assert (cover["covered_from"], cover["covered_to"]) == (NOON - SERVED_WINDOW, NOON)


def test_an_item_of_long_ago_covers_nothing_and_makes_no_day_complete(stage: Stage) -> None:
    stage.connect("ann")
    look(stage, "ann", every_4_minutes(2))
    ancient = datetime(2010, 1, 1, tzinfo=NOON.tzinfo)
    look(stage, "ann", [(before(60), "t3"), (ancient, "t4")], at=NOON + MINUTE)
    covers = [row["covered_from"] for row in stage.rows(t.coverage, "ann")]
    assert min(covers) >= NOON - SERVED_WINDOW


def test_two_songs_at_one_millisecond_are_two_plays_in_either_order(stage: Stage) -> None:
    stage.connect("ann")
    both = [(before(5), "t1"), (before(5), "t2")]
    look(stage, "ann", both)
    look(stage, "ann", both[::-1])
    assert [row["track_id"] for row in stage.rows(t.plays, "ann")] == ["t1", "t2"]
    assert day(stage, "ann")[1] == 2


def test_a_relinked_play_is_one_whichever_id_comes_first_or_if_both_come(stage: Stage) -> None:
    stage.connect("ann")
    relinked = {"r": track_body("t1") | {"id": "r", "external_ids": {"isrc": "X"}}}
    for page in (
        [(before(5), "r"), (before(5), "t1")],
        [(before(5), "t1"), (before(5), "r")],
        [(before(5), "t1")],
        [(before(5), "r")],
    ):
        look(stage, "ann", page, relinked)
        assert len(played_at(stage, "ann")) == 1
    (track,) = [row for row in stage.rows(t.tracks) if row["spotify_id"] == "r"]
    assert track["isrc"] == "X"


def test_a_track_cut_short_counts_the_time_since_the_play_before(stage: Stage) -> None:
    stage.connect("ann")
    long = {"duration_ms": 300_000}
    page = [(before(5), "t2"), (before(5) - 100 * SECOND, "t1")]
    look(stage, "ann", page, {"t1": long, "t2": long})
    (row,) = stage.rows(t.daily_listening, "ann")
    assert row["listened_ms"] == 300_000 + 100_000


def test_a_late_play_shortens_the_play_after_it_on_the_next_day(stage: Stage) -> None:
    midnight = NOON.replace(hour=0)
    stage.connect("ann")
    first = (midnight + 30 * SECOND, "t1")
    look(stage, "ann", [first])
    assert day(stage, "ann") == (3, 1)
    look(stage, "ann", [first, (midnight - 30 * SECOND, "late")])
    assert day(stage, "ann") == (1, 1)
    assert rebuilt_is_equal(stage, "ann")


def test_ends_closer_than_30_seconds_are_a_burst_and_count_whole(stage: Stage) -> None:
    stage.connect("ann")
    burst = [(before(5) + n * SECOND, f"t{n}") for n in reversed(range(20))]
    look(stage, "ann", burst)
    assert day(stage, "ann") == (60, 20)
