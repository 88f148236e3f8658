"""What a sync does when calls are held back: it waits a little, or ends without asking in vain."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from threading import Lock

import pytest
from sqlalchemy import Engine, func, update

from spotify_pipeline.domain.budget import Allowance
from spotify_pipeline.domain.steps import FETCHED, RECENTLY_PLAYED, TOP_ARTISTS, TOP_TRACKS
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.refusals import (
    Forbidden,
    InvalidClient,
    QuotaExceeded,
    RateLimited,
    ServerError,
)
from spotify_pipeline.spotify import errors
from spotify_pipeline.spotify.accounts import Accounts
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.transport import Transport
from spotify_pipeline.storage import budget
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.gate import BudgetGate
from spotify_pipeline.sync.outcome import UserOutcome
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline_tests.sync.stage import Stage

FREE = Allowance(0, 0)
PLAYS_ONLY = (RECENTLY_PLAYED,)


class Journey:
    """A sleep that takes no time: instead everything in the budget is as much longer ago."""

    def __init__(self, engine: Engine) -> None:
        self.naps: list[float] = []
        self._engine = engine
        self._lock = Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock, self._engine.begin() as conn:
            self.naps.append(seconds)
            step = timedelta(seconds=seconds)
            row = t.api_budget.c
            conn.execute(
                update(t.api_budget).values(
                    rate_tat=row.rate_tat - step, blocked_until=row.blocked_until - step
                )
            )

    def monotonic(self) -> float:
        return time.monotonic() + sum(self.naps)


Gated = Callable[..., tuple[Stage, Journey]]


@pytest.fixture
def gated(stage: Stage) -> Iterator[Gated]:
    """The stage behind a gate of its own, as in another process; one thread unless it says more."""
    transports = []

    def gated(allowance: Allowance = FREE, connections: int = 1) -> tuple[Stage, Journey]:
        pipeline, journey = stage.pipeline, Journey(stage.pipeline.engine)
        gate = BudgetGate(
            pipeline.engine, allowance, sleep=journey.sleep, monotonic=journey.monotonic
        )
        settings = pipeline.settings.model_copy(update={"connections": connections})
        transport = Transport(gate=gate, sleep=lambda _: None)
        transports.append(transport)
        accounts = Accounts(
            settings.accounts_url,
            stage.simulator.client_id,
            stage.simulator.client_secret,
            transport,
        )
        api = SpotifyApi(settings.api_url, transport)
        changed = replace(pipeline, settings=settings, gate=gate, api=api, accounts=accounts)
        return replace(stage, pipeline=changed), journey

    yield gated
    for transport in transports:
        transport.close()


def connect(stage: Stage, *user_ids: str) -> tuple[str, ...]:
    for user_id in user_ids:
        stage.connect(user_id, person="light")
    return user_ids


def codes(outcomes: list[UserOutcome]) -> list[str | None]:
    return [outcome.error_code for outcome in outcomes]


def block_of(stage: Stage) -> tuple[str | None, float]:
    """Why everybody is blocked, and for how many seconds from now."""
    with stage.pipeline.engine.connect() as conn:
        state = budget.read_state(conn)
    if state.blocked_until is None:
        return None, 0
    return state.blocked_reason, (state.blocked_until - state.now).total_seconds()


# --- 429 ---


def test_a_short_pause_is_slept_out_and_the_sync_succeeds(gated: Gated) -> None:
    stage, journey = gated()
    users = connect(stage, "anna", "ben")
    stage.simulator.add_fault(RateLimited(retry_after=20), times=1)
    stage.sync_well(*users)
    assert 15 < sum(journey.naps) <= 20
    assert stage.pipeline.gate.throttled_seconds == pytest.approx(sum(journey.naps))


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (RateLimited(retry_after=86_400), "RATE_LIMITED", "RATE"),
        (QuotaExceeded(retry_after=61), "QUOTA_EXCEEDED", "QUOTA"),
        (QuotaExceeded(), "QUOTA_EXCEEDED", "QUOTA"),
    ],
)
def test_a_long_pause_ends_the_sync_after_one_call_and_nobody_probes(
    gated: Gated, fault: Fault, code: str, reason: str
) -> None:
    stage, journey = gated()
    users = connect(stage, "anna", "ben", "cleo")
    number = stage.simulator.add_fault(fault)
    assert codes(stage.sync(*users)) == [code] * 3
    assert [call.endpoint for call in stage.calls()] == ["token", "recently_played"]
    assert block_of(stage)[0] == reason
    assert block_of(stage)[1] == pytest.approx(fault.retry_after, abs=60)
    # Whether Spotify would answer again is nobody's question before the time has come.
    stage.simulator.clear_faults(number)
    stage.simulator.forget_calls()
    assert codes(stage.sync(*users)) == [code] * 3
    assert (stage.calls(), journey.naps) == ([], [])
    stage.execute("UPDATE spotify_pipeline.api_budget SET blocked_until = now()")
    stage.sync_well(*users)


def test_a_block_that_one_process_met_stops_another_before_it_refreshes_a_token(
    gated: Gated,
) -> None:
    one, _ = gated()
    other, journey = gated()
    connect(one, "anna", "ben")
    one.simulator.add_fault(QuotaExceeded())
    one.sync("anna")
    one.simulator.forget_calls()
    assert codes(other.sync("ben")) == ["QUOTA_EXCEEDED"]
    assert (other.calls(), journey.naps) == ([], [])


def test_a_sync_of_many_waits_a_minute_at_most_and_then_ends_without_a_call(gated: Gated) -> None:
    stage, journey = gated()
    users = connect(stage, "anna", "ben", "cleo", "dora")
    # Every second call is refused: a user's first, and after the wait the next user's first.
    stage.simulator.add_fault(RateLimited(retry_after=40), endpoint="recently_played", every=2)
    outcomes = stage.sync(*users, steps=PLAYS_ONLY)
    assert codes(outcomes) == [None, None, "RATE_LIMITED", "RATE_LIMITED"]
    assert 30 < sum(journey.naps) <= 40
    assert stage.calls(user_id="dora") == []
    # The next sync has a minute of its own.
    stage.simulator.clear_faults()
    stage.sync_well("dora", steps=PLAYS_ONLY)
    assert 60 < sum(journey.naps) <= 80


@pytest.mark.parametrize("connections", [1, 16])
def test_a_storm_of_429_ends_with_bounded_sleeps(gated: Gated, connections: int) -> None:
    stage, journey = gated(connections=connections)
    users = connect(stage, *(f"user {n}" for n in range(12)))
    # Real time: the journey's naps do not bring Spotify's window to an end.
    stage.simulator.set_limits(calls_per_30s=20)
    outcomes = stage.sync(*users)
    assert set(codes(outcomes)) <= {None, "RATE_LIMITED"}
    assert "RATE_LIMITED" in codes(outcomes)
    assert stage.pipeline.gate.throttled_seconds <= 60 + 1
    if connections == 1:  # others may nap at the same time
        assert sum(journey.naps) <= 60 + 1
    # Each thread may have had a call on its way when the first 429 came, and again after a wait.
    unwelcome = [call for call in stage.calls() if call.status == 429]
    assert len(unwelcome) <= 3 * connections


# --- the limits of one's own ---


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
        (outcome,) = sync_users(stage.pipeline, [user_id], skip_fresh=True)
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
    assert "this day's calls are used up" in requested.failures["top_artists/medium_term"].message
    assert journey.naps == []


def test_when_the_day_runs_low_the_next_poll_is_later(gated: Gated) -> None:
    stage, _ = gated(Allowance(0, 10))
    plenty, _ = gated(Allowance(0, 1000))
    users = ("anna", "ben")
    for user_id in users:
        stage.connect(user_id)
    plenty.sync_well("anna", steps=PLAYS_ONLY)
    with stage.pipeline.engine.begin() as conn:
        budget.take(conn, Allowance(0, 10), "plays", 6)
    stage.sync_well("ben", steps=PLAYS_ONLY)
    # 7 of the 8 calls that plays may take are gone.
    usual, stretched = (stage.row(t.sync_state, one)["next_due_at"] for one in users)
    assert stretched - stage.clock() == 4 * (usual - stage.clock())


# --- the app refused ---


@pytest.mark.parametrize("fault", [InvalidClient(), Forbidden("not_premium")])
def test_when_the_app_is_refused_everybody_waits_an_hour_and_no_user_is_touched(
    gated: Gated, fault: Fault
) -> None:
    stage, _ = gated()
    other, _ = gated()
    users = connect(stage, "anna", "ben", "cleo")
    stage.simulator.add_fault(fault)
    before = stage.rows(t.users)
    assert codes(stage.sync(*users)) == ["APP_BLOCKED"] * 3
    assert len(stage.calls()) <= 2
    assert block_of(stage)[0] == "APP"
    assert block_of(stage)[1] == pytest.approx(3600, abs=60)
    assert stage.rows(t.users) == before
    stage.simulator.forget_calls()
    # Refused without a call, which makes the hour no longer.
    until = block_of(stage)[1]
    assert codes(other.sync(*users)) == ["APP_BLOCKED"] * 3
    assert stage.calls() == []
    assert block_of(stage)[1] <= until


def test_after_the_hour_one_call_probes_and_the_others_are_still_refused(
    gated: Gated,
) -> None:
    stage, _ = gated(connections=8)
    users = connect(stage, *(f"user {n}" for n in range(8)))
    stage.simulator.add_fault(Forbidden("not_premium"))
    stage.execute(
        "UPDATE spotify_pipeline.api_budget SET blocked_until = now(), blocked_reason = 'APP'"
    )
    assert codes(stage.sync(*users)) == ["APP_BLOCKED"] * 8
    assert [call.endpoint for call in stage.calls()] == ["token", "recently_played"]
    assert block_of(stage)[1] == pytest.approx(3600, abs=60)


def test_a_probe_that_succeeds_opens_the_gate_for_everybody(gated: Gated) -> None:
    stage, _ = gated(Allowance(1000, 1000))
    other, _ = gated(Allowance(1000, 1000))
    users = connect(stage, "anna", "ben")
    stage.execute(
        "UPDATE spotify_pipeline.api_budget SET blocked_until = now(), blocked_reason = 'APP'"
    )
    stage.sync_well(*users)
    assert block_of(stage) == (None, 0)
    other.sync_well(*users)


def test_a_probe_that_tells_nothing_leaves_the_app_blocked(gated: Gated) -> None:
    stage, _ = gated()
    connect(stage, "anna")
    stage.simulator.add_fault(ServerError(), endpoint="recently_played")
    stage.execute(
        "UPDATE spotify_pipeline.api_budget SET blocked_until = now(), blocked_reason = 'APP'"
    )
    assert codes(stage.sync("anna", steps=PLAYS_ONLY)) == ["SPOTIFY_UNAVAILABLE"]
    assert block_of(stage)[0] == "APP"
    assert block_of(stage)[1] == pytest.approx(3600, abs=60)


# --- the gate alone ---


def refused(gate: BudgetGate) -> bool:
    try:
        gate.acquire("plays")
    except errors.RateLimited:
        return True
    return False


def test_a_call_that_is_not_counted_is_held_back_by_a_block_only(engine: Engine) -> None:
    gate = BudgetGate(engine, Allowance(0, 1))
    gate.acquire("request")
    with pytest.raises(errors.RateLimited):
        gate.acquire("request")
    gate.acquire(None)
    assert gate.blocked(3600, "RATE") is False
    with pytest.raises(errors.RateLimited):
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
    with pytest.raises(errors.RateLimited):
        gate.check("plays")
    with engine.begin() as conn:
        conn.execute(update(t.api_budget).values(blocked_until=func.now()))
    lifted_at = time.monotonic()
    while refused(gate):
        assert time.monotonic() - lifted_at < 2
