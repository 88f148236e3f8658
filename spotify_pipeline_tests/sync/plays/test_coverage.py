"""Coverage, gaps, the log of pages, and the completeness of days."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Engine, insert

from spotify_pipeline.domain.listening.coverage import SERVED_WINDOW
from spotify_pipeline.domain.model import Artist, Play, PlaysPage, Track
from spotify_pipeline.domain.outcome import DAILY_LISTENING, RECENTLY_PLAYED
from spotify_pipeline.simulator.faults.edits import EmptyPage, Put
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.listening.coverage import Coverage, read_coverage
from spotify_pipeline.storage.listening.plays import read_plays
from spotify_pipeline.storage.users.queries import User
from spotify_pipeline.sync.fetch import FetchedUser
from spotify_pipeline.sync.plays import store_plays
from spotify_pipeline_tests.domain.listening.feed import Story, recorded, stories
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Heard, Scenario

HOUR = timedelta(hours=1)
DAYS = (RECENTLY_PLAYED, DAILY_LISTENING)
MIDNIGHT = NOON.replace(hour=0)


@pytest.fixture
def anna(scenario: Scenario) -> Scenario:
    scenario.connect("anna", kind="light")
    return scenario


def at(hour: float) -> datetime:
    """An hour of the Wednesday on which the scenario starts; more than 24 is later."""
    return MIDNIGHT + hour * HOUR


def look(
    scenario: Scenario,
    hour: float,
    items: Iterable[float],
    *,
    more: bool = True,
    unusable: Iterable[float] = (),
) -> None:
    """Syncs at this hour, while Spotify shows plays that ended at those hours."""
    heard: list[Heard] = [(at(item), "t1") for item in sorted(items, reverse=True)]
    scenario.serve_plays("anna", heard, more=more, unusable=[at(item) for item in unusable])
    scenario.clock.instant = at(hour)
    scenario.sync_well("anna", steps=DAYS)


def covers(scenario: Scenario) -> list[tuple[datetime, datetime]]:
    return [(row["covered_from"], row["covered_to"]) for row in scenario.rows(t.coverage, "anna")]


def gaps(scenario: Scenario) -> list[tuple[Any, ...]]:
    """Start, end, noticed at, closed at, and the reason for closing."""
    columns = ("gap_start", "gap_end", "detected_at", "closed_at", "closed_by")
    rows = scenario.rows(t.listening_gaps, "anna")
    return [tuple(row[column] for column in columns) for row in rows]


def pages(scenario: Scenario) -> list[dict[str, Any]]:
    return scenario.rows(t.fetch_log, "anna")


def said(scenario: Scenario) -> dict[int, str]:
    """The completeness of each stored day of March."""
    return {
        row["date"].day: row["completeness"] for row in scenario.rows(t.daily_listening, "anna")
    }


# --- coverage and gaps --------------------------------------------------------------------------


def test_a_first_page_covers_from_its_oldest_item_and_opens_no_gap(anna: Scenario) -> None:
    look(anna, 12, [9, 10, 11])
    assert covers(anna) == [(at(9), at(12))]
    assert gaps(anna) == []


def test_pages_that_overlap_are_one_cover(anna: Scenario) -> None:
    look(anna, 12, [9, 10, 11])
    look(anna, 14, [11, 13])  # seen before
    look(anna, 16, [13.5, 15])  # not seen, but it ended before the last fetch
    assert covers(anna) == [(at(9), at(16))]
    assert gaps(anna) == []
    assert [page["overlapped"] for page in pages(anna)] == [False, True, True]


def test_a_page_without_overlap_opens_a_gap_from_the_coverage_before_it_to_its_oldest_item(
    anna: Scenario,
) -> None:
    look(anna, 12, [9, 10, 11])
    look(anna, 20, [18, 19])
    assert covers(anna) == [(at(9), at(12)), (at(18), at(20))]
    assert gaps(anna) == [(at(12), at(18), at(20), None, None)]


def test_a_later_page_that_reaches_back_closes_the_gap_and_joins_the_covers(anna: Scenario) -> None:
    look(anna, 12, [9, 10, 11])
    look(anna, 20, [18, 19])
    look(anna, 21, [12.5, 18, 19])
    assert gaps(anna) == [(at(12), at(18), at(20), None, None)]
    look(anna, 22, [11, 14, 18, 19])
    assert gaps(anna) == [(at(12), at(18), at(20), at(22), "page")]
    assert covers(anna) == [(at(9), at(22))]


def test_each_gap_is_a_row_and_a_closed_one_stays_closed(anna: Scenario) -> None:
    look(anna, 2, [0, 1])
    look(anna, 5, [4])
    look(anna, 8, [7])
    assert [gap[:2] for gap in gaps(anna)] == [(at(2), at(4)), (at(5), at(7))]
    look(anna, 9, [1, 4, 7])
    look(anna, 12, [11])
    assert [(*gap[:2], gap[4]) for gap in gaps(anna)] == [
        (at(2), at(4), "page"),
        (at(5), at(7), "page"),
        (at(9), at(11), None),
    ]


def test_a_page_of_skipped_items_covers_its_time_like_any_other(anna: Scenario) -> None:
    look(anna, 2, [0, 1])
    look(anna, 5, [4], unusable=[4])
    look(anna, 8, [7])
    assert [gap[:2] for gap in gaps(anna)] == [(at(2), at(4)), (at(5), at(7))]
    assert covers(anna) == [(at(0), at(2)), (at(4), at(5)), (at(7), at(8))]


def test_an_empty_first_page_covers_only_7_days(anna: Scenario) -> None:
    look(anna, 2, [], more=False)
    assert covers(anna) == [(at(2) - SERVED_WINDOW, at(2))]
    look(anna, 5, [4])
    assert [gap[:2] for gap in gaps(anna)] == [(at(2), at(4))]


def test_a_short_page_with_nothing_behind_it_covers_7_days(anna: Scenario) -> None:
    look(anna, 2, [0, 1], more=False)
    assert covers(anna) == [(at(2) - SERVED_WINDOW, at(2))]
    look(anna, 5, [0, 1, 4], more=False)
    assert covers(anna) == [(at(2) - SERVED_WINDOW, at(5))]
    assert gaps(anna) == []


def test_ten_silent_days_between_plays_are_no_gap(anna: Scenario) -> None:
    look(anna, 2, [0, 1], more=False)
    for hour in range(12, 10 * 24, 12):
        look(anna, hour, [0, 1] if hour < 7 * 24 else [], more=False)
    look(anna, 10 * 24, [239], more=False)
    assert gaps(anna) == []
    assert covers(anna) == [(at(2) - SERVED_WINDOW, at(240))]


def test_an_empty_page_covers_nothing_while_a_play_of_the_last_7_days_is_stored(
    anna: Scenario,
) -> None:
    look(anna, 2, [0, 1])
    look(anna, 5, [4])
    before = (covers(anna), gaps(anna), said(anna), anna.rows(t.plays))
    look(anna, 40, [], more=False)
    assert (covers(anna), gaps(anna), said(anna), anna.rows(t.plays)) == before
    assert pages(anna)[-1]["items"] == 0
    # If it counted, this page would lie inside coverage.
    look(anna, 42, [39])
    assert [gap[:2] for gap in gaps(anna)] == [(at(2), at(4)), (at(5), at(39))]


def test_skipped_items_count_for_the_overlap_and_for_the_cover(anna: Scenario) -> None:
    look(anna, 12, [9, 10, 11], unusable=[9])
    assert covers(anna) == [(at(9), at(12))]
    look(anna, 14, [9.5, 13], unusable=[9.5])
    assert pages(anna)[-1]["overlapped"]
    assert gaps(anna) == []


def test_each_page_is_logged(anna: Scenario) -> None:
    look(anna, 12, [9, 10, 11], unusable=[9])
    look(anna, 20, [18, 19])
    look(anna, 21, [18, 19, 20], unusable=[20])
    look(anna, 22, [])
    columns = ("items", "new_plays", "oldest_item_at", "newest_item_at", "overlapped", "skipped")
    assert [
        (page["fetched_at"], *(page[column] for column in columns)) for page in pages(anna)
    ] == [
        (at(12), 3, 2, at(9), at(11), False, {"null_track": 1}),
        (at(20), 2, 2, at(18), at(19), False, {}),
        (at(21), 3, 0, at(18), at(20), True, {"null_track": 1}),
        (at(22), 0, 0, None, None, False, {}),
    ]


def test_a_page_of_unreadable_times_covers_nothing_and_is_counted(anna: Scenario) -> None:
    look(anna, 12, [9, 10])
    body = {"items": [{"played_at": "yesterday"}] * 2, "next": None}
    anna.simulator.clear_faults()
    anna.simulator.add_fault(Put(value=body), endpoint="recently_played")
    anna.clock.instant = at(20)
    anna.sync_well("anna", steps=DAYS)
    assert covers(anna) == [(at(9), at(12))]
    page = pages(anna)[-1]
    assert (page["items"], page["oldest_item_at"], page["overlapped"]) == (2, None, False)
    assert sum(page["skipped"].values()) == 2


def test_a_clock_behind_spotifys_leaves_no_hole_in_the_coverage(anna: Scenario) -> None:
    look(anna, 12, [9, 12 + 1 / 30])  # two minutes in our future
    look(anna, 14, [12 + 1 / 30, 13])
    assert covers(anna) == [(at(9), at(14))]
    assert gaps(anna) == []


def test_a_failed_fetch_covers_nothing(anna: Scenario) -> None:
    look(anna, 12, [9, 10, 11])
    anna.simulator.clear_faults()
    anna.simulator.add_fault(Put(path=("items",), value="nonsense"), endpoint="recently_played")
    anna.clock.instant = at(20)
    (outcome,) = anna.sync("anna", steps=DAYS)
    assert outcome.error_code == "BAD_RESPONSE"
    assert covers(anna) == [(at(9), at(12))]
    assert len(pages(anna)) == 1


def test_a_user_forgotten_during_a_sync_leaves_no_coverage_and_the_others_are_recorded(
    anna: Scenario,
) -> None:
    anna.connect("ben")
    anna.sync_well("anna", "ben", steps=DAYS)
    anna.clock.instant = later = NOON + HOUR
    outcomes = anna.meanwhile("recently_played", lambda: anna.forget("anna")).sync(
        "anna", "ben", steps=DAYS
    )
    assert [outcome.result for outcome in outcomes] == ["gone", "synced"]
    for table in (t.plays, t.coverage, t.fetch_log, t.listening_gaps, t.daily_listening):
        assert anna.rows(table, "anna") == []
    assert [row["covered_to"] for row in anna.rows(t.coverage, "ben")] == [later]
    assert len(anna.rows(t.fetch_log, "ben")) == 2


def test_users_of_one_sync_do_not_get_each_others_covers(anna: Scenario) -> None:
    anna.connect("ben")
    look(anna, 12, [9, 11])
    anna.serve_plays("ben", [(at(3), "t1"), (at(1), "t1")], more=True)
    anna.serve_plays("anna", [(at(18), "t1")], more=True)
    anna.clock.instant = at(20)
    anna.sync_well("anna", "ben", steps=DAYS)
    assert covers(anna) == [(at(9), at(12)), (at(18), at(20))]
    assert [gap[:2] for gap in gaps(anna)] == [(at(12), at(18))]
    (ben,) = anna.rows(t.coverage, "ben")
    assert (ben["covered_from"], ben["covered_to"]) == (at(1), at(20))
    assert anna.rows(t.listening_gaps, "ben") == []


# --- completeness -------------------------------------------------------------------------------


def test_a_day_that_becomes_complete_by_time_is_recomputed_once(anna: Scenario) -> None:
    def state() -> tuple[str, datetime]:
        (row,) = anna.rows(t.daily_listening)
        return row["completeness"], row["computed_at"]

    items = [1, 9, 11]
    look(anna, 12, items, more=False)
    assert state() == ("at_least", at(12))
    for hour in (20, 24, 29.9):
        look(anna, hour, items, more=False)
        assert state() == ("at_least", at(12))
    look(anna, 30, items, more=False)
    assert state() == ("complete", at(30))
    look(anna, 31, items, more=False)
    assert state() == ("complete", at(30))


def test_a_day_is_complete_by_the_clock_of_its_zone(anna: Scenario) -> None:
    anna.move("anna", "Pacific/Auckland")  # 13 hours ahead: the 5th begins at 11:00 of the 4th
    look(anna, 10, [9], more=False)
    look(anna, 16.9, [9], more=False)
    assert said(anna) == {4: "at_least"}
    look(anna, 17, [9], more=False)
    assert said(anna) == {4: "complete"}


def test_a_day_that_began_before_the_cover_stays_at_least(anna: Scenario) -> None:
    look(anna, 12, [9, 11])
    look(anna, 36, [11, 25])
    look(anna, 60, [25])
    assert said(anna) == {4: "at_least", 5: "complete"}


def test_a_gap_keeps_every_day_it_touches_from_being_complete_until_it_closes(
    anna: Scenario,
) -> None:
    look(anna, 2, [0.5, 1], more=False)
    look(anna, 52, [49, 50])
    look(anna, 110, [49, 98])
    assert said(anna) == {4: "at_least", 6: "at_least", 8: "at_least"}
    look(anna, 130, [49, 98, 122])
    assert said(anna) == {4: "at_least", 6: "at_least", 8: "complete", 9: "at_least"}
    look(anna, 131, [1, 49, 98, 122])
    assert said(anna) == {4: "complete", 6: "complete", 8: "complete", 9: "at_least"}


def test_a_gap_that_opens_takes_complete_back_from_the_days_it_touches(anna: Scenario) -> None:
    look(anna, 24, [1, 19], more=False)
    # A clock was ahead: the day was marked complete before it was over.
    anna.execute("UPDATE spotify_pipeline.daily_listening SET completeness = 'complete'")
    look(anna, 80, [78])
    assert said(anna) == {4: "at_least", 7: "at_least"}


def test_a_gap_that_opened_while_no_days_were_computed_is_not_forgotten(anna: Scenario) -> None:
    look(anna, 24, [1, 19], more=False)
    anna.execute("UPDATE spotify_pipeline.daily_listening SET completeness = 'complete'")
    anna.serve_plays("anna", [(at(78), "t1")], more=True, unusable=[at(78)])
    anna.clock.instant = at(80)
    anna.sync_well("anna", steps=(RECENTLY_PLAYED,))
    assert said(anna) == {4: "complete"}
    look(anna, 81, [78], unusable=[78])
    assert said(anna) == {4: "at_least"}


def test_a_rebuild_gives_every_day_the_same_completeness(anna: Scenario) -> None:
    look(anna, 20, [1, 19], more=False)
    look(anna, 80, [78])
    look(anna, 130, [78, 102])
    before = anna.rows(t.daily_listening)
    anna.execute("UPDATE spotify_pipeline.daily_listening SET completeness = 'unknown'")
    anna.sync_well("anna", steps=(DAILY_LISTENING,))
    after = anna.rows(t.daily_listening)
    for row in (*before, *after):
        del row["computed_at"]
    assert after == before
    assert said(anna) == {4: "at_least", 7: "at_least", 8: "complete"}


def test_a_zone_change_recomputes_the_completeness_of_days(anna: Scenario) -> None:
    look(anna, 20, [1, 19], more=False)
    look(anna, 30, [19], more=False)
    assert said(anna) == {4: "complete"}
    anna.move("anna", "America/Los_Angeles")  # where the 4th ends 8 hours later
    look(anna, 31, [19], more=False)
    assert said(anna) == {3: "complete", 4: "at_least"}


# --- any listening ------------------------------------------------------------------------------


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories())
def test_postgres_keeps_the_record_that_a_pipeline_without_it_would(
    engine: Engine, story: Story
) -> None:
    record = recorded(story)
    with engine.connect() as conn:
        save_artists(conn, [Artist("a", "a")])
        save_tracks(conn, [Track("t", "t", 200_000, ("a",))])
        conn.execute(insert(t.users).values(user_id="anna"))
        listener = User("anna", "UTC", "connected", False, None, None, None)
        for poll in story.polls:
            window = story.window(poll)
            page = PlaysPage(
                plays=tuple(Play(heard.ended_at, "t") for heard in window if heard.usable),
                tracks=(Track("t", "t", 200_000, ("a",)),),
                artists=(),
                item_times=tuple(heard.ended_at for heard in window),
                has_more=story.has_more(poll),
                items=len(window),
            )
            fetched_at = poll.at - story.behind
            fetched = FetchedUser(listener, fetched_at, {RECENTLY_PLAYED: page})
            (user,) = store_plays(conn, [fetched], now=datetime.max.replace(tzinfo=UTC))
            # The returned coverage, the input of days and personality, equals the stored one.
            assert user.coverage == read_coverage(conn, ["anna"])["anna"]
        stored = read_plays(conn, {"anna": None})["played_at"]
        assert [moment.to_pydatetime() for moment in stored] == sorted(record.stored)
        assert read_coverage(conn, ["anna"])["anna"] == Coverage(record.covered, record.open_gaps)
        logged = [(row.items, row.overlapped) for row in conn.execute(t.fetch_log.select())]
        assert logged == [(len(items), change.overlapped) for items, change in record.pages]
        conn.rollback()


@pytest.mark.parametrize("hours", [(5, 14, 9, 26, 3, 7), (1, 2, 1, 3, 48, 2, 1)])
def test_every_play_of_a_realistic_feed_is_stored_or_lies_in_a_gap(
    scenario: Scenario, hours: tuple[int, ...]
) -> None:
    start = NOON - timedelta(days=5)
    scenario.at(start)
    scenario.connect(
        "anna", "America/St_Johns", since=date(2026, 2, 20), longest_delay=timedelta(hours=6)
    )
    polls = [start]
    for step in (0, *hours):
        polls.append(polls[-1] + step * HOUR)
        scenario.at(polls[-1])
        if len(polls) == 4:
            # One empty response from a failing Spotify; a minute later the correct one.
            scenario.simulator.add_fault(EmptyPage(), endpoint="recently_played", times=1)
            scenario.sync_well("anna", steps=DAYS)
            polls[-1] += timedelta(minutes=1)
            scenario.at(polls[-1])
        scenario.sync_well("anna", steps=DAYS)
    ledger = scenario.simulator.ledger("anna", since=start)
    stored = [row["played_at"] for row in scenario.rows(t.plays, "anna")]
    assert len(stored) == len(set(stored))
    lost = 0
    for play in ledger:
        first = min((at for at in polls if at >= play.played_at), default=None)
        if first is None or play.published_at > first:
            continue
        if play.played_at not in stored:
            lost += 1
            assert any(gap[0] <= play.played_at <= gap[1] for gap in gaps(scenario)), play
    assert (lost > 0) == bool(gaps(scenario))
    assert lost > 0
