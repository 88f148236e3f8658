"""Plays re-stamped, relinked, emptied or changed by Spotify leave the numbers right."""

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from spotify_pipeline.domain.listening.coverage import SERVED_WINDOW
from spotify_pipeline.domain.outcome import DAILY_LISTENING, MUSIC_PERSONALITY, RECENTLY_PLAYED
from spotify_pipeline.simulator.faults.refusals import Body
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Heard, Scenario, track_body

DAYS = (RECENTLY_PLAYED, DAILY_LISTENING)
REBUILD = (DAILY_LISTENING, MUSIC_PERSONALITY)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
TODAY = date(2026, 3, 4)
FACTS = (t.plays, t.restamped_plays, t.daily_listening)


def before(minutes: float) -> datetime:
    return NOON - minutes * MINUTE


def every_4_minutes(count: int) -> list[Heard]:
    """Plays of different tracks, newest first."""
    return [(before(5 + 4 * n), f"t{n}") for n in range(count)]


def look(
    scenario: Scenario,
    user: str,
    heard: Sequence[Heard],
    tracks: dict[str, dict[str, Any]] | None = None,
    *,
    at: datetime = NOON,
    more: bool = False,
) -> None:
    scenario.serve_plays(user, heard, tracks=tracks, more=more)
    scenario.clock.instant = at
    scenario.sync_well(user, steps=DAYS)


def played_at(scenario: Scenario, user: str) -> list[datetime]:
    return [row["played_at"] for row in scenario.rows(t.plays, user)]


def day(scenario: Scenario, user: str, of: date = TODAY) -> tuple[int, int]:
    """Minutes and plays."""
    (row,) = [row for row in scenario.rows(t.daily_listening, user) if row["date"] == of]
    return row["minutes"], row["plays"]


def rebuilt_is_equal(scenario: Scenario, *users: str) -> bool:
    def stored() -> list[dict[str, Any]]:
        rows = [row for table in FACTS for user in users for row in scenario.rows(table, user)]
        return [{name: row[name] for name in row if name != "computed_at"} for row in rows]

    before_it = stored()
    scenario.sync_well(*users, steps=REBUILD)
    return stored() == before_it


def test_an_emptied_track_takes_nothing_from_users_who_heard_it_before(scenario: Scenario) -> None:
    scenario.connect("bob")
    scenario.connect("ann")
    look(scenario, "bob", [(before(10), "t")], {"t": {"duration_ms": 300_000}})
    look(scenario, "ann", [(before(20), "t")], {"t": {"name": "", "duration_ms": 0}})
    scenario.sync_well("ann", "bob", steps=REBUILD)
    assert day(scenario, "bob") == (5, 1)
    # The catalogue knew the length, so the emptied play has it too.
    assert day(scenario, "ann") == (5, 1)
    (track,) = scenario.rows(t.tracks)
    assert (track["name"], track["duration_ms"]) == ("Song t", 300_000)


def test_a_length_learned_later_is_given_to_the_plays_that_lack_it(scenario: Scenario) -> None:
    scenario.connect("ann")
    scenario.connect("bob")
    look(scenario, "ann", [(before(20), "t")], {"t": {"name": " ", "duration_ms": 0}})
    assert day(scenario, "ann") == (0, 1)
    look(scenario, "bob", [(before(10), "t")], {"t": {"duration_ms": 300_000}})
    look(scenario, "ann", [(before(20), "t")], {"t": {"name": "", "duration_ms": 0}})
    assert day(scenario, "ann") == (5, 1)
    assert rebuilt_is_equal(scenario, "ann", "bob")


def test_an_emptied_name_in_a_top_list_keeps_the_known_one(scenario: Scenario) -> None:
    scenario.connect("ann")
    scenario.sync_well("ann")
    shown = {row["spotify_id"]: row["name"] for row in scenario.rows(t.user_top_tracks, "ann")}
    body = {
        "items": [track_body(id_) | {"name": "", "duration_ms": 0} for id_ in sorted(shown)],
        "next": None,
    }
    scenario.simulator.add_fault(Body(text=json.dumps(body)), endpoint="top_tracks")
    scenario.sync_well("ann")
    assert {row["name"] for row in scenario.rows(t.user_top_tracks, "ann")} <= {*shown.values()}
    assert all(row["name"] for row in scenario.rows(t.tracks) if row["spotify_id"] in shown)


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
    scenario: Scenario, change: dict[str, Any]
) -> None:
    scenario.connect("cy")
    old = {
        "duration_ms": 200_000,
        "album": {"id": "a", "name": "A", "images": [], "release_date": "2001-01-01"},
    }
    yesterday = NOON - timedelta(days=1)
    look(scenario, "cy", [(yesterday, "t")], {"t": old}, at=yesterday + MINUTE)
    first = scenario.rows(t.plays, "cy")
    look(scenario, "cy", [(before(5), "t"), (yesterday, "t")], {"t": old | change})
    assert day(scenario, "cy", TODAY - timedelta(days=1)) == (3, 1)
    assert scenario.rows(t.plays, "cy")[:1] == first
    assert rebuilt_is_equal(scenario, "cy")
    assert scenario.rows(t.plays, "cy")[:1] == first


def test_a_restamped_page_is_not_stored_again(scenario: Scenario) -> None:
    scenario.connect("ann")
    heard = every_4_minutes(20)
    look(scenario, "ann", heard)
    before_it = (played_at(scenario, "ann"), day(scenario, "ann"))
    shifted = [(at - (0.8 + 1.5 * n) * SECOND, track) for n, (at, track) in enumerate(heard)]
    for _ in range(2):  # the next poll must not change it either
        look(scenario, "ann", shifted, at=NOON + MINUTE)
        assert (played_at(scenario, "ann"), day(scenario, "ann")) == before_it
    newer = (NOON + 2 * MINUTE, "new")
    look(scenario, "ann", [newer, *shifted], at=NOON + 3 * MINUTE)
    assert len(played_at(scenario, "ann")) == 21
    assert scenario.rows(t.listening_gaps, "ann") == []
    assert rebuilt_is_equal(scenario, "ann")


def test_a_restamped_play_is_known_when_it_is_the_oldest_of_a_full_page_later(
    scenario: Scenario,
) -> None:
    scenario.connect("ann")
    heard = every_4_minutes(20)
    look(scenario, "ann", heard, more=True)
    # The oldest one was moved to a later instant, the others to earlier ones.
    oldest, *_ = reversed(heard)
    shifted = [(at - 9 * SECOND, track) for at, track in heard[:-1]]
    late = (oldest[0] + 55 * SECOND, oldest[1])
    look(scenario, "ann", [*shifted, late], at=NOON + MINUTE, more=True)
    look(scenario, "ann", [(NOON, "new"), *shifted, late], at=NOON + 2 * MINUTE, more=True)
    assert len(played_at(scenario, "ann")) == 21


def test_a_restamped_play_counts_once_whichever_version_comes_first(scenario: Scenario) -> None:
    heard = every_4_minutes(20)
    shifted = [(at - 20 * SECOND, track) for at, track in heard]
    scenario.connect("ann")
    scenario.connect("bob")
    for user, versions in (("ann", (heard, shifted)), ("bob", (shifted, heard))):
        for version in versions:
            look(scenario, user, version)
    assert day(scenario, "ann") == day(scenario, "bob") == (60, 20)


def test_an_empty_first_page_makes_no_day_before_the_last_week_complete(scenario: Scenario) -> None:
    scenario.connect("ann")
    look(scenario, "ann", [])
    (cover,) = scenario.rows(t.coverage, "ann")
    assert (cover["covered_from"], cover["covered_to"]) == (NOON - SERVED_WINDOW, NOON)


def test_an_item_older_than_the_window_covers_nothing_and_completes_no_day(
    scenario: Scenario,
) -> None:
    scenario.connect("ann")
    look(scenario, "ann", every_4_minutes(2))
    ancient = datetime(2010, 1, 1, tzinfo=NOON.tzinfo)
    look(scenario, "ann", [(before(60), "t3"), (ancient, "t4")], at=NOON + MINUTE)
    covers = [row["covered_from"] for row in scenario.rows(t.coverage, "ann")]
    assert min(covers) >= NOON - SERVED_WINDOW


def test_two_songs_at_one_millisecond_are_two_plays_in_either_order(scenario: Scenario) -> None:
    scenario.connect("ann")
    both = [(before(5), "t1"), (before(5), "t2")]
    look(scenario, "ann", both)
    look(scenario, "ann", both[::-1])
    assert [row["track_id"] for row in scenario.rows(t.plays, "ann")] == ["t1", "t2"]
    assert day(scenario, "ann")[1] == 2


def test_a_relinked_play_is_one_whichever_id_comes_first_or_if_both_come(
    scenario: Scenario,
) -> None:
    scenario.connect("ann")
    relinked = {"r": track_body("t1") | {"id": "r", "external_ids": {"isrc": "X"}}}
    for page in (
        [(before(5), "r"), (before(5), "t1")],
        [(before(5), "t1"), (before(5), "r")],
        [(before(5), "t1")],
        [(before(5), "r")],
    ):
        look(scenario, "ann", page, relinked)
        assert len(played_at(scenario, "ann")) == 1
    (track,) = [row for row in scenario.rows(t.tracks) if row["spotify_id"] == "r"]
    assert track["isrc"] == "X"


def test_a_track_cut_short_counts_the_time_since_the_play_before(scenario: Scenario) -> None:
    scenario.connect("ann")
    long = {"duration_ms": 300_000}
    page = [(before(5), "t2"), (before(5) - 100 * SECOND, "t1")]
    look(scenario, "ann", page, {"t1": long, "t2": long})
    (row,) = scenario.rows(t.daily_listening, "ann")
    assert row["listened_ms"] == 300_000 + 100_000


def test_a_late_play_shortens_the_play_after_it_on_the_next_day(scenario: Scenario) -> None:
    midnight = NOON.replace(hour=0)
    scenario.connect("ann")
    first = (midnight + 30 * SECOND, "t1")
    look(scenario, "ann", [first])
    assert day(scenario, "ann") == (3, 1)
    look(scenario, "ann", [first, (midnight - 30 * SECOND, "late")])
    assert day(scenario, "ann") == (1, 1)
    assert rebuilt_is_equal(scenario, "ann")


def test_ends_closer_than_30_seconds_are_a_burst_and_count_whole(scenario: Scenario) -> None:
    scenario.connect("ann")
    burst = [(before(5) + n * SECOND, f"t{n}") for n in reversed(range(20))]
    look(scenario, "ann", burst)
    assert day(scenario, "ann") == (60, 20)
