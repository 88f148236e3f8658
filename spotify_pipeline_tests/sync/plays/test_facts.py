"""Plays are immutable, days are computed from all of them, a sync without new data is a no-op."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert

from spotify_pipeline.domain.model import Artist, Play, Track
from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    MUSIC_PERSONALITY,
    RECENTLY_PLAYED,
    STEPS,
    TOP_ARTISTS,
    TOP_TRACKS,
)
from spotify_pipeline.simulator.control import LedgerPlay
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.listening.plays import insert_plays
from spotify_pipeline.sync.days import refresh_days
from spotify_pipeline.sync.plays import StoredUser
from spotify_pipeline_tests import expected_listening
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Dump, Heard, Scenario, track_body

HOUR = timedelta(hours=1)
DAYS = (RECENTLY_PLAYED, DAILY_LISTENING)
REBUILD = (DAILY_LISTENING, MUSIC_PERSONALITY)


def at(text: str, zone: str = "UTC") -> datetime:
    """The instant at which a clock in the zone shows this time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def listened(plays: Iterable[LedgerPlay], zone: str) -> dict[date, int]:
    """Milliseconds per local date, by the oracle."""
    by_day: Counter[date] = Counter()
    facts = ((play.played_at, play.track_id, None, play.duration_ms) for play in plays)
    for (played_at, _), ms in expected_listening.listened_ms(facts).items():
        by_day[played_at.astimezone(ZoneInfo(zone)).date()] += ms
    return by_day


def heard(start: datetime, count: int, track_id: str = "t1") -> list[Heard]:
    """`count` plays, one every 4 minutes from `start`; newest first, as Spotify sends them."""
    return [(start + timedelta(minutes=4 * n), track_id) for n in reversed(range(count))]


def test_the_first_sync_stores_all_that_spotify_has(scenario: Scenario) -> None:
    scenario.connect("anna", "Europe/Oslo")
    (outcome,) = scenario.sync_well("anna")
    ledger = [play for play in scenario.simulator.ledger("anna") if play.visible]
    assert [(row["played_at"], row["track_id"]) for row in scenario.rows(t.plays)] == [
        (play.played_at, play.track_id) for play in ledger
    ]
    assert len(ledger) == 50
    assert tuple(outcome.done) != ()
    assert set(outcome.done) == set(STEPS)
    assert (outcome.new_plays, outcome.done[RECENTLY_PLAYED].total) == (50, 50)
    lists = Counter(
        (table.name, row["time_range"])
        for table in (t.user_top_artists, t.user_top_tracks)
        for row in scenario.rows(table)
    )
    assert set(lists.values()) == {scenario.pipeline.settings.top_limit}
    assert len(lists) == len(TOP_ARTISTS) + len(TOP_TRACKS)
    state = scenario.row(t.sync_state, "anna")
    assert {
        state[f"{name}_at"]
        for name in ("last_synced", "last_success", "plays_fetched", "tops_fetched")
    } == {NOON}
    assert (state["last_error_code"], state["consecutive_failures"]) == (None, 0)


def test_the_days_of_a_week_are_those_of_the_simulators_books(scenario: Scenario) -> None:
    zone = "America/St_Johns"
    begin = NOON - timedelta(days=3)
    scenario.at(begin)
    scenario.connect("anna", zone, kind="heavy", since=(begin - timedelta(days=1)).date())
    for hours in range(0, 73, 6):
        scenario.at(begin + hours * HOUR)
        scenario.sync_well("anna", steps=DAYS)
    expected = listened((play for play in scenario.simulator.ledger("anna") if play.served), zone)
    assert len(expected) >= 3
    stored = scenario.rows(t.daily_listening, "anna")
    assert {row["date"]: row["listened_ms"] for row in stored} == expected


def test_a_second_sync_of_the_same_instant_writes_no_row(scenario: Scenario) -> None:
    for user_id, zone in (("anna", "Europe/Oslo"), ("ben", "Pacific/Auckland")):
        scenario.connect(user_id, zone)
    scenario.sync_well("anna", "ben")
    before = scenario.dump(versions=True)
    outcomes = scenario.sync_well("anna", "ben")
    assert scenario.dump(versions=True) == before
    assert len(before["plays"]) == 100
    for outcome in outcomes:
        assert outcome.new_plays == 0
        assert {(rows.new, rows.changed) for rows in outcome.done.values()} == {(0, 0)}


def test_a_later_sync_that_finds_nothing_new_changes_only_when_lists_were_fetched(
    scenario: Scenario,
) -> None:
    scenario.connect("anna", "Europe/Oslo")
    scenario.sync_well("anna")
    before = scenario.dump("fetched_at", "covered_to")
    scenario.clock.instant = later = NOON + 2 * HOUR  # the simulator's clock does not move
    scenario.sync_well("anna")
    assert scenario.dump("fetched_at", "covered_to") == before
    assert [row["covered_to"] for row in scenario.rows(t.coverage)] == [later]
    assert {row["fetched_at"] for row in scenario.rows(t.user_top_artists)} == {later}


def test_a_second_sync_of_the_day_does_not_lower_its_minutes(scenario: Scenario) -> None:
    scenario.connect("anna")
    scenario.at(at("2026-03-04 10:00"))
    scenario.serve_plays("anna", heard(at("2026-03-04 06:00"), 50))
    scenario.sync_well("anna")
    assert scenario.minutes("anna") == {date(2026, 3, 4): 150}
    scenario.at(at("2026-03-04 23:00"))
    scenario.serve_plays("anna", heard(at("2026-03-04 22:00"), 10, "t2"))
    scenario.sync_well("anna")
    assert scenario.minutes("anna") == {date(2026, 3, 4): 180}
    (day,) = scenario.rows(t.daily_listening)
    assert (day["plays"], day["unique_tracks"], day["top_track_id"]) == (60, 2, "t1")


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/Los_Angeles"])
def test_the_last_millisecond_of_a_local_day_belongs_to_it(scenario: Scenario, zone: str) -> None:
    scenario.connect("anna", zone)
    scenario.serve_plays(
        "anna",
        [
            (at("2026-03-03 00:00:00.000", zone), "t2"),
            (at("2026-03-02 23:59:59.999", zone), "t1"),
        ],
    )
    scenario.sync_well("anna")
    assert {row["date"]: row["top_track_id"] for row in scenario.rows(t.daily_listening)} == {
        date(2026, 3, 2): "t1",
        date(2026, 3, 3): "t2",
    }


def test_late_plays_change_exactly_the_days_they_fall_on(scenario: Scenario) -> None:
    scenario.connect("anna", "Asia/Kathmandu")
    days = [heard(at(f"2026-03-0{day} 09:00"), 5) for day in (3, 2, 1)]
    scenario.serve_plays("anna", [play for day in days for play in day])
    scenario.sync_well("anna", steps=DAYS)
    before = {row["date"]: row for row in scenario.rows(t.daily_listening)}
    scenario.clock.instant = NOON + HOUR
    # Yesterday evening's plays arrive late and out of order, after the morning was already stored.
    late = [(at("2026-03-02 14:00"), "t3"), (at("2026-03-02 13:00"), "t2")]
    scenario.serve_plays("anna", [days[0][0], late[1], *days[1], late[0]])
    (outcome,) = scenario.sync_well("anna", steps=DAYS)
    after = {row["date"]: row for row in scenario.rows(t.daily_listening)}
    assert outcome.new_plays == 2
    assert (outcome.done[DAILY_LISTENING].new, outcome.done[DAILY_LISTENING].changed) == (0, 1)
    touched = date(2026, 3, 2)
    assert {day for day in after if after[day] != before.get(day)} == {touched}
    assert (after[touched]["plays"], after[touched]["computed_at"]) == (7, NOON + HOUR)


def test_a_relinked_track_does_not_double_a_play(scenario: Scenario) -> None:
    scenario.connect("anna")
    moment = NOON - HOUR
    scenario.serve_plays("anna", [(moment, "t1")])
    scenario.sync_well("anna")
    scenario.serve_plays(
        "anna", [(moment, "relinked")], tracks={"relinked": track_body("t1") | {"id": "relinked"}}
    )
    (outcome,) = scenario.sync_well("anna")
    assert outcome.new_plays == 0
    assert [row["track_id"] for row in scenario.rows(t.plays)] == ["t1"]
    assert scenario.minutes("anna") == {date(2026, 3, 4): 3}


def test_a_zone_change_moves_every_day_and_its_reversal_restores_them(scenario: Scenario) -> None:
    scenario.connect("anna", "Europe/Oslo")
    scenario.sync_well("anna")
    at_home = scenario.dump("computed_at", "fetched_at")
    scenario.move("anna", "Pacific/Auckland")
    assert scenario.row(t.users, "anna")["days_stale"]
    (outcome,) = scenario.sync_well("anna")
    assert not scenario.row(t.users, "anna")["days_stale"]
    visible = [play for play in scenario.simulator.ledger("anna") if play.visible]
    stored = {row["date"]: row["listened_ms"] for row in scenario.rows(t.daily_listening)}
    assert stored == listened(visible, "Pacific/Auckland")
    assert outcome.new_plays == 0
    scenario.move("anna", "Europe/Oslo")
    scenario.sync_well("anna")
    assert scenario.dump("computed_at", "fetched_at") == at_home


def test_a_zone_that_changes_during_a_sync_is_not_taken_for_rebuilt(scenario: Scenario) -> None:
    scenario.connect("anna", "UTC")
    scenario.serve_plays("anna", heard(at("2026-03-03 23:00"), 20))
    scenario.move("anna", "Europe/Oslo")  # the sync has days to rebuild
    moving = scenario.meanwhile(
        "recently_played", lambda: scenario.move("anna", "America/New_York")
    )
    moving.sync_well("anna")
    scenario.sync_well("anna")
    assert scenario.minutes("anna") == {date(2026, 3, 3): 60}


def test_plays_stored_without_their_days_are_in_the_days_of_the_next_sync(
    scenario: Scenario,
) -> None:
    scenario.connect("anna")
    scenario.serve_plays("anna", heard(NOON - 2 * HOUR, 10))
    scenario.sync_well("anna", steps=(RECENTLY_PLAYED,))
    assert scenario.minutes("anna") == {}
    scenario.sync_well("anna")
    assert scenario.minutes("anna") == {date(2026, 3, 4): 30}


def test_a_rebuild_restores_what_was_computed_and_asks_spotify_nothing(scenario: Scenario) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id, "Europe/Oslo")
    scenario.sync_well("anna", "ben")
    results = ("daily_listening", "music_personality", "plays", "top_list_artists")
    results += ("listening_tallies",)
    good = {name: rows for name, rows in scenario.dump("computed_at").items() if name in results}
    scenario.simulator.revoke("anna")
    scenario.sync("anna")
    before = scenario.row(t.sync_state, "anna")
    assert before["last_error_code"] == "RECONNECT"
    scenario.simulator.forget_calls()
    scenario.clock.instant = NOON + HOUR
    scenario.execute(
        "INSERT INTO spotify_pipeline.daily_listening"
        " (user_id, date, minutes, listened_ms, plays, unique_tracks, unique_artists)"
        " VALUES ('anna', '2020-01-01', 1, 60000, 1, 1, 1)"
    )
    scenario.execute("UPDATE spotify_pipeline.daily_listening SET minutes = 7, top_track_id = NULL")
    scenario.execute("UPDATE spotify_pipeline.music_personality SET play_count = 1, tags = '{}'")
    # A restore without triggers may leave wrong counters: too few days, or none.
    scenario.execute("UPDATE spotify_pipeline.listening_tallies SET plays = 1, days = 0")
    scenario.execute("DELETE FROM spotify_pipeline.listening_tallies WHERE user_id = 'ben'")
    scenario.sync_well("anna", "ben", steps=REBUILD)
    # A day without plays cannot be found from the plays; the rebuild reads the stored days too.
    assert {name: scenario.dump("computed_at")[name] for name in results} == good
    assert scenario.calls() == []
    # Announces neither a recovery nor changes.
    assert scenario.row(t.sync_state, "anna") == before


def test_an_imported_play_counts_its_measured_time(scenario: Scenario) -> None:
    scenario.connect("anna")
    scenario.serve_plays("anna", heard(NOON - 2 * HOUR, 1))
    scenario.sync_well("anna")
    with scenario.pipeline.engine.begin() as conn:
        conn.execute(
            insert(t.plays).values(
                user_id="anna",
                played_at=NOON - HOUR,
                track_id="t1",
                source="export",
                ms_played=60_000,
            )
        )
    scenario.sync_well("anna", steps=REBUILD)
    assert scenario.minutes("anna") == {date(2026, 3, 4): 4}


# Around both shifts of Lord Howe's half hour, and close together so that plays share days.
_moments = st.one_of(
    st.integers(0, 3 * 86_400_000).map(lambda ms: at("2025-10-04") + timedelta(milliseconds=ms)),
    st.integers(0, 400).map(lambda hours: at("2026-02-01") + hours * HOUR),
)
_plays = st.lists(
    st.tuples(_moments, st.sampled_from("abc")), max_size=12, unique_by=lambda play: play[0]
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plays=_plays,
    order=st.randoms(use_true_random=False),
    size=st.integers(1, 9),
    zone=st.sampled_from(["Australia/Lord_Howe", "America/Los_Angeles", "Pacific/Apia", "UTC"]),
)
def test_any_batching_of_arrivals_gives_the_days_of_all_plays_at_once(
    engine: Engine, plays: list[Heard], order: object, size: int, zone: str
) -> None:
    order.shuffle(plays)  # type: ignore[attr-defined]
    pages = [plays[n : n + size] for n in range(0, len(plays), size)]
    with engine.connect() as conn:
        save_artists(conn, [Artist(f"by {name}", name) for name in "abc"])
        tracks = {name: Track(name, name, 200_000, (f"by {name}",)) for name in "abc"}
        save_tracks(conn, tracks.values())
        for user_id in ("batched", "at once"):
            conn.execute(insert(t.users).values(user_id=user_id, timezone=zone))
        for user_id, arriving in (("batched", pages), ("at once", [plays])):
            for page in arriving:
                arrived = [(Play(*play), tracks[play[1]]) for play in page]
                new = tuple(at for _, at in insert_plays(conn, {user_id: arrived}))
                refresh_days(conn, [StoredUser(user_id, zone, new_plays=new)], NOON)
        days: Dump = {"batched": [], "at once": []}
        d = t.daily_listening
        for row in conn.execute(d.select().order_by(d.c.date)):
            days[row.user_id].append(tuple(row)[1:])
        conn.rollback()
    assert days["batched"] == days["at once"]
    estimates = expected_listening.listened_ms((at, track, None, 200_000) for at, track in plays)
    assert sum(day[2] for day in days["batched"]) == sum(estimates.values())
