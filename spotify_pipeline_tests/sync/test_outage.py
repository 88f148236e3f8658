"""An outage of Spotify is the account's: one call probes, and everybody else waits for it."""

from datetime import datetime, timedelta

import pytest

from spotify_pipeline.domain.budget import Allowance
from spotify_pipeline.domain.steps import (
    DAILY_LISTENING,
    MUSIC_PERSONALITY,
    RECENTLY_PLAYED,
    TOP_ARTISTS,
)
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.simulator.faults.wire import ConnectionReset
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.people import select_users
from spotify_pipeline.sync.outcome import UserOutcome
from spotify_pipeline.sync.runs import why_not_now
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline_tests.sync.gated import PLAYS_ONLY, Gated, codes, connect
from spotify_pipeline_tests.sync.stage import NOON, Stage

QUARTER = timedelta(minutes=15)
PLAYS = (RECENTLY_PLAYED, DAILY_LISTENING, MUSIC_PERSONALITY)
DOWN = "SPOTIFY_UNAVAILABLE"


def pass_by(stage: Stage, minutes: float) -> None:
    """Time passes for the world, for the facts clock and in the budget."""
    stage.at(stage.clock() + timedelta(minutes=minutes))
    stage.execute(
        "UPDATE spotify_pipeline.api_budget SET day_slot = day_slot - :slots,"
        " outage_until = outage_until - make_interval(secs => :seconds)",
        slots=int(minutes // 15),
        seconds=minutes * 60,
    )


def poll(stage: Stage) -> list[UserOutcome]:
    """What `plays_poll` does at a tick."""
    stage.pipeline.gate.begin()
    if why_not_now(stage.pipeline, "due", PLAYS):
        return []
    with stage.pipeline.engine.connect() as conn:
        due = select_users(conn, "due", stage.clock())
    return sync_users(stage.pipeline, due, PLAYS, scheduled=True)


def visible(stage: Stage, user_id: str) -> set[tuple[datetime, str]]:
    """The plays that Spotify shows now."""
    plays = stage.simulator.ledger(user_id, since=stage.clock() - timedelta(days=6))
    return {(play.played_at, play.track_id) for play in plays if play.visible}


def is_outage(stage: Stage) -> bool:
    (budget,) = stage.rows(t.api_budget)
    return budget["outage_until"] is not None


def test_an_outage_burns_a_call_per_tick_and_polls_are_on_time_after_it(gated: Gated) -> None:
    stage, _ = gated(Allowance(0, 1000), connections=4)
    users = connect(stage, *(f"user {n:02}" for n in range(20)))
    assert {outcome.result for outcome in poll(stage)} == {"synced"}
    stage.simulator.forget_calls()
    fault = stage.simulator.add_fault(ServerError(503))
    ticks = 10
    for _ in range(ticks):
        pass_by(stage, 15)
        assert set(codes(poll(stage))) <= {DOWN}
    burnt = len(stage.calls("recently_played"))
    # 4 threads have two calls each on their way until three users have failed; then one call probes
    # per tick.
    assert ticks // 2 <= burnt <= ticks + 3 * 4
    (budget,) = stage.rows(t.api_budget)
    # A permit that was booked before the circuit breaker opened may not have been used.
    assert sum(budget["day_calls"]) <= len(users) + burnt + 4

    stage.simulator.clear_faults(fault)
    pass_by(stage, 15)
    recovered_at = stage.clock()
    window = {user_id: visible(stage, user_id) for user_id in users}
    first = poll(stage)
    # All but the users whose own calls failed last, who wait for up to an hour.
    assert len(first) >= 10
    assert {outcome.result for outcome in first} == {"synced"}
    assert not is_outage(stage)
    for _ in range(4):
        pass_by(stage, 15)
        poll(stage)
    states = {row["user_id"]: row for row in stage.rows(t.sync_state)}
    for user_id in users:
        state = states[user_id]
        assert state["plays_fetched_at"] >= recovered_at
        assert state["next_due_at"] - state["plays_fetched_at"] <= timedelta(hours=1)
        assert state["consecutive_failures"] == 0
        stored = {(row["played_at"], row["track_id"]) for row in stage.rows(t.plays, user_id)}
        assert window[user_id] <= stored


@pytest.mark.parametrize("fault", [ServerError(503), ConnectionReset()])
def test_in_an_outage_other_processes_make_no_call_and_a_request_probes_after_a_minute(
    gated: Gated, fault: Fault
) -> None:
    stage, _ = gated()
    other, journey = gated()
    users = connect(stage, *"abcde")
    stage.simulator.add_fault(fault)
    assert codes(stage.sync(*users, steps=PLAYS_ONLY)) == [DOWN] * 5
    assert is_outage(stage)
    stage.simulator.forget_calls()
    assert codes(other.sync(*users)) == [DOWN] * 5
    assert (other.calls(), journey.naps) == ([], [])
    pass_by(stage, 1.1)
    assert codes(sync_users(other.pipeline, users, PLAYS_ONLY, scheduled=True)) == [DOWN] * 5
    assert other.calls() == []
    assert codes(other.sync(*users)) == [DOWN] * 5
    assert len(other.calls()) == 1


def test_a_probe_that_is_answered_lets_everybody_in_at_once(gated: Gated) -> None:
    stage, _ = gated(Allowance(0, 1000), connections=8)
    users = connect(stage, *"abcdefgh")
    fault = stage.simulator.add_fault(ServerError(503))
    stage.sync(*users, steps=PLAYS_ONLY)
    assert is_outage(stage)
    stage.simulator.clear_faults(fault)
    pass_by(stage, 15)
    stage.sync_well(*users, steps=PLAYS_ONLY)
    assert not is_outage(stage)


def test_a_user_who_alone_gets_no_answer_opens_no_circuit_breaker(gated: Gated) -> None:
    stage, _ = gated()
    users = connect(stage, "anna", "ben", "cleo")
    stage.simulator.add_fault(ServerError(500), user_id="anna")
    for _ in range(5):
        outcomes = stage.sync(*users, steps=(RECENTLY_PLAYED, *TOP_ARTISTS))
        assert codes(outcomes) == [DOWN, None, None]
        assert not is_outage(stage)


def test_a_user_who_fails_again_and_again_is_due_less_often(gated: Gated) -> None:
    stage, _ = gated()
    connect(stage, "anna", "ben")
    stage.simulator.add_fault(ServerError(500), user_id="anna")
    waits = []
    for _ in range(5):
        sync_users(stage.pipeline, ["anna"], PLAYS_ONLY, scheduled=True)
        sync_users(stage.pipeline, ["ben"], PLAYS_ONLY)
        waits.append(stage.row(t.sync_state, "anna")["next_due_at"] - NOON)
    assert waits == [QUARTER, 2 * QUARTER, 4 * QUARTER, 4 * QUARTER, 4 * QUARTER]
    assert stage.row(t.sync_state, "anna")["consecutive_failures"] == 5


def test_an_end_of_an_outage_later_than_any_can_be_is_not_waited_for(gated: Gated) -> None:
    stage, _ = gated(Allowance(0, 1000))
    connect(stage, "anna")
    stage.execute(
        "UPDATE spotify_pipeline.api_budget"
        " SET outage_until = now() + interval '6 h', unanswered_users = 3"
    )
    (outcome,) = sync_users(stage.pipeline, ["anna"], PLAYS_ONLY, scheduled=True)
    assert outcome.result == "synced"
    assert not is_outage(stage)
