"""A failure affects only its step and its user, deletes nothing, and says what to do."""

import time
from datetime import timedelta

import pytest

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    FETCHED,
    PROFILE_REVALIDATION,
    RECENTLY_PLAYED,
    STEPS,
    TOP_ARTISTS,
    TOP_TRACKS,
    UserOutcome,
)
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.edits import EmptyPage, OddText, Put
from spotify_pipeline.simulator.faults.refusals import (
    Forbidden,
    InvalidClient,
    Latency,
    ServerError,
)
from spotify_pipeline.simulator.faults.wire import Truncated
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

HOUR = timedelta(hours=1)
TOPS = (*TOP_ARTISTS, *TOP_TRACKS)


@pytest.fixture
def two(scenario: Scenario) -> Scenario:
    """Anna and Ben have synced once; an hour later both have new plays."""
    for user_id in ("anna", "ben"):
        scenario.connect(user_id)
    scenario.sync_well("anna", "ben")
    scenario.at(NOON + 12 * HOUR)
    scenario.simulator.forget_calls()
    return scenario


def results(outcomes: list[UserOutcome]) -> dict[str, tuple[str, str | None]]:
    return {outcome.user_id: (outcome.result, outcome.error_code) for outcome in outcomes}


def of_user(scenario: Scenario, user_id: str) -> dict[str, list[tuple[object, ...]]]:
    """The stored data of a user."""
    return {
        name: [row for row in rows if user_id in row]
        for name, rows in scenario.dump().items()
        if name not in ("artists", "tracks", "user_tokens", "request_locks")
    }


def test_a_revoked_token_stops_its_user_only_and_is_never_tried_again(two: Scenario) -> None:
    before = of_user(two, "anna")
    two.simulator.revoke("anna")
    assert results(two.sync("anna", "ben")) == {
        "anna": ("failed", "RECONNECT"),
        "ben": ("synced", None),
    }
    assert two.row(t.users, "anna")["connection"] == "needs_reauth"
    assert two.row(t.users, "ben")["connection"] == "connected"
    assert two.row(t.user_tokens, "anna")["last_error_code"] == "RECONNECT"
    state = two.row(t.sync_state, "anna")
    assert (state["last_error_code"], state["consecutive_failures"]) == ("RECONNECT", 1)
    assert WHAT_TO_DO[ErrorCode.RECONNECT] in state["last_error_message"]
    before["users"] = [
        tuple("needs_reauth" if value == "connected" else value for value in row)
        for row in before["users"]
    ]
    assert of_user(two, "anna") == before
    assert two.row(t.sync_state, "ben")["last_success_at"] == two.clock()
    # The 401 that reveals the revocation and the refused refresh; no calls after that.
    assert len(two.calls()) <= 2 + 8
    two.simulator.forget_calls()
    assert results(two.sync("anna")) == {"anna": ("failed", "RECONNECT")}
    assert two.calls() == []


def test_a_user_who_reconnects_is_synced_again(two: Scenario) -> None:
    two.simulator.revoke("anna")
    two.sync("anna")
    two.hand_over("anna", two.simulator.reconnect("anna").refresh_token)
    (outcome,) = two.sync_well("anna")
    assert outcome.new_plays > 0
    assert two.row(t.users, "anna")["connection"] == "connected"
    state = two.row(t.sync_state, "anna")
    assert (state["last_error_code"], state["consecutive_failures"]) == (None, 0)


def test_a_token_of_another_app_is_not_sent(two: Scenario) -> None:
    two.hand_over("anna", "foreign", client_id="another app")
    assert results(two.sync("anna", "ben")) == {
        "anna": ("failed", "CLIENT_MISMATCH"),
        "ben": ("synced", None),
    }
    assert {call.user_id for call in two.calls()} == {"ben"}
    assert two.row(t.users, "anna")["connection"] == "connected"


def test_a_token_sealed_for_another_user_cannot_be_opened(two: Scenario) -> None:
    two.execute(
        "UPDATE spotify_pipeline.user_tokens AS mine"
        " SET sealed_refresh_token = theirs.sealed_refresh_token,"
        " sealed_access_token = NULL, access_expires_at = NULL"
        " FROM spotify_pipeline.user_tokens AS theirs"
        " WHERE mine.user_id = 'anna' AND theirs.user_id = 'ben'"
    )
    assert results(two.sync("anna", "ben")) == {
        "anna": ("failed", "INTERNAL"),
        "ben": ("synced", None),
    }
    assert {call.user_id for call in two.calls()} == {"ben"}


@pytest.mark.parametrize(
    ("fault", "code", "calls"),
    [
        # Transient errors: each of the seven calls is tried four times.
        (ServerError(502), "SPOTIFY_UNAVAILABLE", 28),
        (ServerError(503, form="html"), "SPOTIFY_UNAVAILABLE", 28),
        (Truncated(), "BAD_RESPONSE", 28),
        # Applies to the user's other calls too: one call is enough, or one for each permission.
        (Forbidden("not_allowlisted"), "NOT_ALLOWLISTED", 1),
        (Forbidden("scope"), "MISSING_SCOPE", 2),
    ],
)
def test_a_refusal_of_one_user_fails_that_user_only(
    two: Scenario, fault: Fault, code: str, calls: int
) -> None:
    before = of_user(two, "anna")
    two.simulator.add_fault(fault, user_id="anna")
    outcomes = {outcome.user_id: outcome for outcome in two.sync("anna", "ben")}
    assert results(list(outcomes.values())) == {"anna": ("failed", code), "ben": ("synced", None)}
    assert set(outcomes["anna"].failures) == set(FETCHED)
    assert outcomes["anna"].done == {}
    assert of_user(two, "anna") == before
    assert outcomes["ben"].new_plays > 0
    assert len(two.calls(user_id="anna")) == calls
    state = two.row(t.sync_state, "anna")
    assert (state["last_error_code"], state["consecutive_failures"]) == (code, 1)
    assert state["plays_fetched_at"] == state["last_synced_at"] == NOON
    assert state["next_due_at"] == two.clock() + timedelta(minutes=15)
    assert two.row(t.users, "anna")["connection"] == "connected"


def test_a_refusal_of_the_app_touches_no_user(two: Scenario) -> None:
    two.simulator.expire_access_tokens()
    two.simulator.add_fault(InvalidClient())
    assert set(results(two.sync("anna", "ben")).values()) == {("failed", "APP_BLOCKED")}
    for user_id in ("anna", "ben"):
        assert two.row(t.users, user_id)["connection"] == "connected"
        assert two.row(t.user_tokens, user_id)["last_error_code"] is None


def test_a_failed_top_list_keeps_its_rows_and_stops_nothing(two: Scenario) -> None:
    artists = two.rows(t.user_top_artists, "anna")
    two.simulator.add_fault(ServerError(500), endpoint="top_artists", user_id="anna")
    (outcome,) = two.sync("anna")
    assert outcome.result == "failed"
    assert set(outcome.failures) == set(TOP_ARTISTS)
    assert set(outcome.done) == set(STEPS) - set(TOP_ARTISTS)
    assert two.rows(t.user_top_artists, "anna") == artists
    assert {row["fetched_at"] for row in two.rows(t.user_top_tracks, "anna")} == {two.clock()}
    assert outcome.new_plays > 0
    assert outcome.done[DAILY_LISTENING].new + outcome.done[DAILY_LISTENING].changed > 0
    state = two.row(t.sync_state, "anna")
    assert state["plays_fetched_at"] == state["last_synced_at"] == two.clock()
    assert state["tops_fetched_at"] == state["last_success_at"] == NOON


# Plays need their own permission.
@pytest.mark.parametrize("fault", [ServerError(500), Forbidden("scope")])
def test_failed_plays_stop_the_days_but_not_the_top_lists(two: Scenario, fault: Fault) -> None:
    days, plays = two.rows(t.daily_listening, "anna"), two.rows(t.plays, "anna")
    personality = two.rows(t.music_personality, "anna")
    two.simulator.add_fault(fault, endpoint="recently_played", user_id="anna")
    (outcome,) = two.sync("anna")
    assert set(outcome.failures) == {RECENTLY_PLAYED}
    # The app is notified of the new lists.
    assert set(outcome.done) == {*TOPS, PROFILE_REVALIDATION}
    assert (two.rows(t.daily_listening, "anna"), two.rows(t.plays, "anna")) == (days, plays)
    assert two.rows(t.music_personality, "anna") == personality
    assert {row["fetched_at"] for row in two.rows(t.user_top_artists, "anna")} == {two.clock()}
    state = two.row(t.sync_state, "anna")
    assert state["tops_fetched_at"] == two.clock()
    assert state["plays_fetched_at"] == NOON


def test_an_empty_top_list_keeps_the_rows_and_when_they_were_fetched(two: Scenario) -> None:
    tables = (t.user_top_artists, t.user_top_tracks, t.top_artists_history, t.top_tracks_history)
    before = [two.rows(table, "anna") for table in tables]
    for endpoint in ("top_artists", "top_tracks"):
        two.simulator.add_fault(EmptyPage(), endpoint=endpoint, user_id="anna")
    (outcome,) = two.sync_well("anna")
    assert [two.rows(table, "anna") for table in tables] == before
    assert {outcome.done[step].total for step in TOPS} == {two.pipeline.settings.top_limit}


def test_a_list_that_became_shorter_loses_its_tail(two: Scenario) -> None:
    one = {"items": [{"id": "only", "name": "Only"}], "next": None}
    two.simulator.add_fault(Put(value=one), endpoint="top_artists", user_id="anna")
    two.sync_well("anna")
    listed = [
        (row["time_range"], row["rank"], row["spotify_id"])
        for row in two.rows(t.user_top_artists, "anna")
    ]
    assert listed == [(r, 1, "only") for r in sorted(TOP_ARTISTS.values())]
    # The previous list is history, closed at the instant at which the new one came.
    history = two.rows(t.top_artists_history, "anna")
    assert {row["valid_to"] for row in history if row["valid_from"] == NOON} == {two.clock()}
    assert {row["spotify_id"] for row in history if row["valid_to"] is None} == {"only"}


def test_hostile_names_are_stored(two: Scenario) -> None:
    two.simulator.add_fault(OddText(), user_id="anna")
    (outcome,) = two.sync_well("anna")
    assert outcome.new_plays > 0


# Constraints that make Postgres refuse rows: in the shared catalogue, or of one user.
RULES = {
    "catalogue": "tracks ADD CHECK (name <> 'refused')",
    "plays": "plays ADD CHECK (user_id <> 'ben' OR played_at <= '2026-03-04 12:00+00')",
    "days": "daily_listening ADD CHECK (user_id <> 'ben' OR date <= '2026-03-04')",
    "top lists": "top_list_tracks ADD CHECK (user_id <> 'ben' OR name <> 'refused')",
}


@pytest.mark.parametrize("rule", RULES)
def test_rows_that_postgres_refuses_fail_exactly_their_user(two: Scenario, rule: str) -> None:
    two.connect("cleo")
    two.at(NOON + 20 * HOUR)
    two.execute(f"ALTER TABLE spotify_pipeline.{RULES[rule]} NOT VALID")
    for endpoint, track in (
        ("recently_played", ("items", 0, "track")),
        ("top_tracks", ("items", 0)),
    ):
        # Its own track: no other user's sync stores it.
        for field, value in (("id", f"odd {endpoint}"), ("name", "refused")):
            fault = Put(path=(*track, field), value=value)
            two.simulator.add_fault(fault, endpoint=endpoint, user_id="ben")
    before = of_user(two, "ben")
    assert results(two.sync("anna", "ben", "cleo")) == {
        "anna": ("synced", None),
        "ben": ("failed", "INTERNAL"),
        "cleo": ("synced", None),
    }
    assert of_user(two, "ben") == before
    assert two.rows(t.plays, "cleo")
    state = two.row(t.sync_state, "ben")
    assert (state["last_error_code"], state["consecutive_failures"]) == ("INTERNAL", 1)
    assert state["plays_fetched_at"] == NOON
    assert state["next_due_at"] == two.clock() + timedelta(minutes=15)


FAR = [
    "user_tokens SET expires_at",
    "user_tokens SET authorized_at",
    "user_tokens SET access_expires_at",
    "sync_state SET plays_fetched_at",
    "sync_state SET tops_fetched_at",
    "users SET plays_from",
]


@pytest.mark.parametrize("instant", ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"])
@pytest.mark.parametrize("column", FAR)
def test_an_instant_outside_pythons_range_fails_no_other_user(
    two: Scenario, column: str, instant: str
) -> None:
    two.execute(f"UPDATE spotify_pipeline.{column} = '{instant}' WHERE user_id = 'anna'")
    found = results(two.sync("anna", "ben"))
    assert found["ben"] == ("synced", None)
    assert found["anna"][0] in ("synced", "failed")


def test_an_instant_outside_pythons_range_in_the_budget_fails_no_user(two: Scenario) -> None:
    two.execute("UPDATE spotify_pipeline.api_budget SET rate_tat = '-infinity'")
    two.sync_well("anna", "ben")


def test_an_unknown_zone_fails_exactly_its_user(two: Scenario) -> None:
    # As on a machine whose tz database is older than the one used by init-db.
    two.execute("INSERT INTO spotify_pipeline.time_zones VALUES ('Mars/Olympus')")
    two.execute("UPDATE spotify_pipeline.users SET timezone = 'Mars/Olympus' WHERE user_id = 'ben'")
    assert results(two.sync("anna", "ben")) == {
        "anna": ("synced", None),
        "ben": ("failed", "INTERNAL"),
    }


def test_slow_responses_are_awaited_in_parallel(scenario: Scenario) -> None:
    names = [f"listener {number}" for number in range(8)]
    for name in names:
        scenario.connect(name, kind="light")
    scenario.simulator.add_fault(Latency(0.5), endpoint="recently_played")
    started = time.monotonic()
    outcomes = scenario.sync_well(*names, steps=[RECENTLY_PLAYED])
    elapsed = time.monotonic() - started
    seconds = [outcome.seconds for outcome in outcomes]
    assert min(seconds) >= 0.5
    assert elapsed < sum(seconds) / 2


def test_a_missing_user_has_outcome_gone_and_others_are_synced(two: Scenario) -> None:
    assert results(two.sync("anna", "nobody", "anna")) == {
        "anna": ("synced", None),
        "nobody": ("gone", None),
    }


def test_a_sync_of_no_users_does_nothing(scenario: Scenario) -> None:
    assert scenario.sync() == []


def test_a_user_without_a_connection_is_asked_to_connect(scenario: Scenario) -> None:
    scenario.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES ('anna')")
    assert results(scenario.sync("anna")) == {"anna": ("failed", "RECONNECT")}
    assert scenario.calls() == []
