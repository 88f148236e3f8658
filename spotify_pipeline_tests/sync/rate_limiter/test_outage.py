"""The outage circuit breaker: one call probes, and all others wait for its result."""

from datetime import datetime, timedelta

import pytest

from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    MUSIC_PERSONALITY,
    RECENTLY_PLAYED,
    TOP_ARTISTS,
    UserOutcome,
)
from spotify_pipeline.domain.quota import Quota
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.simulator.faults.wire import ConnectionReset
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.queries import select_users
from spotify_pipeline.sync.runs import skip_reason
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario
from spotify_pipeline_tests.sync.rate_limiter.rate_limit_fixture import (
    PLAYS_ONLY,
    RateLimitFixtures,
    codes,
    connect,
)

QUARTER = timedelta(minutes=15)
PLAYS = (RECENTLY_PLAYED, DAILY_LISTENING, MUSIC_PERSONALITY)
DOWN = "SPOTIFY_UNAVAILABLE"


def pass_by(scenario: Scenario, minutes: float) -> None:
    """Time passes for the world, for the facts clock and in the budget."""
    scenario.at(scenario.clock() + timedelta(minutes=minutes))
    scenario.execute(
        "UPDATE spotify_pipeline.api_budget SET day_slot = day_slot - :slots,"
        " outage_until = outage_until - make_interval(secs => :seconds)",
        slots=int(minutes // 15),
        seconds=minutes * 60,
    )


def poll(scenario: Scenario) -> list[UserOutcome]:
    """What `plays_poll` does at a tick."""
    scenario.pipeline.rate_limiter.begin()
    if skip_reason(scenario.pipeline, "due", PLAYS):
        return []
    with scenario.pipeline.engine.connect() as conn:
        due = select_users(conn, "due", scenario.clock())
    return sync_users(scenario.pipeline, due, PLAYS, scheduled=True)


def visible(scenario: Scenario, user_id: str) -> set[tuple[datetime, str]]:
    """The plays that Spotify shows now."""
    plays = scenario.simulator.ledger(user_id, since=scenario.clock() - timedelta(days=6))
    return {(play.played_at, play.track_id) for play in plays if play.visible}


def is_outage(scenario: Scenario) -> bool:
    (budget,) = scenario.rows(t.api_budget)
    return budget["outage_until"] is not None


def test_an_outage_costs_a_call_per_tick_and_polls_resume_on_time(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited(Quota(0, 1000), connections=4)
    users = connect(scenario, *(f"user {n:02}" for n in range(20)))
    assert {outcome.result for outcome in poll(scenario)} == {"synced"}
    scenario.simulator.forget_calls()
    fault = scenario.simulator.add_fault(ServerError(503))
    ticks = 10
    for _ in range(ticks):
        pass_by(scenario, 15)
        assert set(codes(poll(scenario))) <= {DOWN}
    burnt = len(scenario.calls("recently_played"))
    # 4 threads have two calls each on their way until three users have failed; then one call probes
    # per tick.
    assert ticks // 2 <= burnt <= ticks + 3 * 4
    (budget,) = scenario.rows(t.api_budget)
    # A permit that was booked before the circuit breaker opened may not have been used.
    assert sum(budget["day_calls"]) <= len(users) + burnt + 4

    scenario.simulator.clear_faults(fault)
    pass_by(scenario, 15)
    recovered_at = scenario.clock()
    window = {user_id: visible(scenario, user_id) for user_id in users}
    first = poll(scenario)
    # All but the users whose own calls failed last, who wait for up to an hour.
    assert len(first) >= 10
    assert {outcome.result for outcome in first} == {"synced"}
    assert not is_outage(scenario)
    for _ in range(4):
        pass_by(scenario, 15)
        poll(scenario)
    states = {row["user_id"]: row for row in scenario.rows(t.sync_state)}
    for user_id in users:
        state = states[user_id]
        assert state["plays_fetched_at"] >= recovered_at
        assert state["next_due_at"] - state["plays_fetched_at"] <= timedelta(hours=1)
        assert state["consecutive_failures"] == 0
        stored = {(row["played_at"], row["track_id"]) for row in scenario.rows(t.plays, user_id)}
        assert window[user_id] <= stored


@pytest.mark.parametrize("fault", [ServerError(503), ConnectionReset()])
def test_in_an_outage_other_processes_make_no_call_and_a_request_probes_after_a_minute(
    rate_limited: RateLimitFixtures, fault: Fault
) -> None:
    scenario, _ = rate_limited()
    other, journey = rate_limited()
    users = connect(scenario, *"abcde")
    scenario.simulator.add_fault(fault)
    assert codes(scenario.sync(*users, steps=PLAYS_ONLY)) == [DOWN] * 5
    assert is_outage(scenario)
    scenario.simulator.forget_calls()
    assert codes(other.sync(*users)) == [DOWN] * 5
    assert (other.calls(), journey.naps) == ([], [])
    pass_by(scenario, 1.1)
    assert codes(sync_users(other.pipeline, users, PLAYS_ONLY, scheduled=True)) == [DOWN] * 5
    assert other.calls() == []
    assert codes(other.sync(*users)) == [DOWN] * 5
    assert len(other.calls()) == 1


def test_an_answered_probe_ends_the_outage_for_all_users(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited(Quota(0, 1000), connections=8)
    users = connect(scenario, *"abcdefgh")
    fault = scenario.simulator.add_fault(ServerError(503))
    scenario.sync(*users, steps=PLAYS_ONLY)
    assert is_outage(scenario)
    scenario.simulator.clear_faults(fault)
    pass_by(scenario, 15)
    scenario.sync_well(*users, steps=PLAYS_ONLY)
    assert not is_outage(scenario)


def test_a_user_who_alone_gets_no_answer_opens_no_circuit_breaker(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited()
    users = connect(scenario, "anna", "ben", "cleo")
    scenario.simulator.add_fault(ServerError(500), user_id="anna")
    for _ in range(5):
        outcomes = scenario.sync(*users, steps=(RECENTLY_PLAYED, *TOP_ARTISTS))
        assert codes(outcomes) == [DOWN, None, None]
        assert not is_outage(scenario)


def test_a_user_who_fails_again_and_again_is_due_less_often(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited()
    connect(scenario, "anna", "ben")
    scenario.simulator.add_fault(ServerError(500), user_id="anna")
    waits = []
    for _ in range(5):
        sync_users(scenario.pipeline, ["anna"], PLAYS_ONLY, scheduled=True)
        sync_users(scenario.pipeline, ["ben"], PLAYS_ONLY)
        waits.append(scenario.row(t.sync_state, "anna")["next_due_at"] - NOON)
    assert waits == [QUARTER, 2 * QUARTER, 4 * QUARTER, 4 * QUARTER, 4 * QUARTER]
    assert scenario.row(t.sync_state, "anna")["consecutive_failures"] == 5


def test_an_end_of_an_outage_later_than_any_can_be_is_not_waited_for(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited(Quota(0, 1000))
    connect(scenario, "anna")
    scenario.execute(
        "UPDATE spotify_pipeline.api_budget"
        " SET outage_until = now() + interval '6 h', unanswered_users = 3"
    )
    (outcome,) = sync_users(scenario.pipeline, ["anna"], PLAYS_ONLY, scheduled=True)
    assert outcome.result == "synced"
    assert not is_outage(scenario)
