"""Our own limits: who goes first, how long a call waits at most, and what is asked of Postgres."""

import time
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, update

from spotify_pipeline.domain.budget import Allowance
from spotify_pipeline.domain.steps import (
    FETCHED,
    REBUILT,
    RECENTLY_PLAYED,
    TOP_ARTISTS,
    TOP_TRACKS,
)
from spotify_pipeline.spotify.errors import RateLimited
from spotify_pipeline.storage import budget
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.gate import BudgetGate
from spotify_pipeline.sync.runs import why_not_now
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline_tests.sync.gated import FREE, PLAYS_ONLY, Gated, connect


def test_the_pace_is_kept_and_its_waits_are_counted(gated: Gated) -> None:
    allowance = Allowance(10, 0, window_seconds=5)
    stage, journey = gated(allowance, connections=4)
    users = connect(stage, "anna", "ben")
    began_at = journey.monotonic()
    stage.sync_well(*users)
    # 14 calls, of which one goes at once.
    assert journey.monotonic() - began_at >= 13 * allowance.interval_seconds
    assert stage.pipeline.gate.throttled_seconds > 0
    assert {call.status for call in stage.calls()} == {200}
    # Spotify does not count the two refreshes.
    assert (stage.pipeline.gate.calls, len(stage.calls())) == (14, 16)


def test_a_pace_that_would_make_a_call_wait_for_more_than_a_minute_refuses_it(
    gated: Gated,
) -> None:
    stage, journey = gated(Allowance(1, 0, window_seconds=90))
    (outcome,) = stage.sync(*connect(stage, "anna"))
    assert next(iter(outcome.done)) == RECENTLY_PLAYED
    assert outcome.error_code == "RATE_LIMITED"
    assert journey.naps == []


def test_top_lists_stop_first_then_plays_and_requests_last(gated: Gated) -> None:
    stage, journey = gated(Allowance(0, 10))
    users = connect(stage, "anna", "ben", "cleo", "dora")

    def scheduled(user_id: str) -> list[str]:
        (outcome,) = sync_users(stage.pipeline, [user_id], scheduled=True)
        assert {failure.code for failure in outcome.failures.values()} <= {"QUOTA_EXCEEDED"}
        return [step for step in FETCHED if step in outcome.done]

    assert scheduled(users[0]) == [RECENTLY_PLAYED, *TOP_ARTISTS, *list(TOP_TRACKS)[:2]]
    assert scheduled(users[1]) == [RECENTLY_PLAYED]
    assert scheduled(users[2]) == [RECENTLY_PLAYED]
    assert scheduled(users[3]) == []
    assert stage.calls(user_id="dora") == []
    (requested,) = stage.sync("dora", steps=(RECENTLY_PLAYED, *TOP_ARTISTS))
    assert len(requested.done) == 2
    assert requested.error_code == "QUOTA_EXCEEDED"
    assert (
        "the calls of these 24 hours are used up"
        in requested.failures["top_artists/medium_term"].message
    )
    assert journey.naps == []


def test_when_the_day_runs_low_the_next_poll_is_later(gated: Gated) -> None:
    stage, _ = gated(Allowance(0, 10))
    plenty, _ = gated(Allowance(0, 1000))
    stage.connect("anna")
    plenty.sync_well("anna", steps=PLAYS_ONLY)
    usual = stage.row(t.sync_state, "anna")["next_due_at"] - stage.clock()
    with stage.pipeline.engine.begin() as conn:
        budget.take(conn, Allowance(0, 10), "plays", 6)
    stage.sync_well("anna", steps=PLAYS_ONLY)
    # 7 of the 8 calls that plays may take are gone.
    stretched = stage.row(t.sync_state, "anna")["next_due_at"] - stage.clock()
    # Both are rounded down to a quarter of an hour.
    assert 4 * usual <= stretched < 4 * (usual + timedelta(minutes=15))


def test_a_scheduled_run_does_not_begin_when_it_would_be_for_nothing(gated: Gated) -> None:
    stage, _ = gated(Allowance(0, 10))
    connect(stage, "anna")

    def spend(calls: int) -> None:
        with stage.pipeline.engine.begin() as conn:
            assert budget.take(conn, Allowance(0, 10), "request", calls) == calls

    def reasons() -> list[str | None]:
        stage.pipeline.gate.begin()
        return [why_not_now(stage.pipeline, "eligible", steps) for steps in (FETCHED, TOP_ARTISTS)]

    used_up = "the calls of these 24 hours are used up"
    spend(5)
    assert reasons() == [None, None]
    spend(1)
    assert [reason is None for reason in reasons()] == [True, False]
    spend(2)
    assert all(used_up in (reason or "") for reason in reasons())
    assert why_not_now(stage.pipeline, "eligible", REBUILT) is None
    stage.execute(
        "UPDATE spotify_pipeline.api_budget SET day_calls = '{}',"
        " blocked_until = now() + interval '1 hour', blocked_reason = 'RATE'"
    )
    assert all("Spotify asked for a pause" in (reason or "") for reason in reasons())


# --- the gate alone ---


def refused(gate: BudgetGate) -> bool:
    try:
        gate.acquire("plays")
    except RateLimited:
        return True
    return False


def test_a_call_that_is_not_counted_is_held_back_by_a_block_only(engine: Engine) -> None:
    gate = BudgetGate(engine, Allowance(0, 1))
    gate.acquire("request")
    with pytest.raises(RateLimited):
        gate.acquire("request")
    gate.acquire(None)
    assert gate.blocked(3600, "RATE") is False
    with pytest.raises(RateLimited):
        gate.acquire(None)


def test_without_limits_calls_are_not_counted_and_a_block_is_seen_within_a_second(
    engine: Engine,
) -> None:
    gate = BudgetGate(engine, FREE)
    for _ in range(100):
        gate.acquire("plays")
    with engine.begin() as conn:
        assert budget.read_state(conn).calls_of_day() == 0
        budget.block(conn, 3600, "QUOTA")
    written_at = time.monotonic()
    while not refused(gate):
        assert time.monotonic() - written_at < 2


def test_a_block_that_was_lifted_is_seen_within_a_second(engine: Engine) -> None:
    gate = BudgetGate(engine, FREE)
    gate.blocked(3600, "QUOTA")
    with pytest.raises(RateLimited):
        gate.check("plays")
    with engine.begin() as conn:
        conn.execute(update(t.api_budget).values(blocked_until=func.now()))
    lifted_at = time.monotonic()
    while refused(gate):
        assert time.monotonic() - lifted_at < 2
