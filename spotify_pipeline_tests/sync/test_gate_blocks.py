"""A 429 or a refusal of the app stops everybody: nobody asks in vain, and nobody waits for long."""

import pytest
from sqlalchemy import text

from spotify_pipeline.domain.budget import Allowance
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.refusals import (
    Forbidden,
    InvalidClient,
    Latency,
    QuotaExceeded,
    RateLimited,
    ServerError,
)
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.outcome import UserOutcome
from spotify_pipeline.sync.requests import answer_requests
from spotify_pipeline_tests.sync.gated import PLAYS_ONLY, Gated, block_of, codes, connect
from spotify_pipeline_tests.sync.stage import Stage


def test_a_short_pause_is_slept_out_and_the_sync_succeeds(gated: Gated) -> None:
    stage, journey = gated()
    users = connect(stage, "anna", "ben")
    stage.simulator.add_fault(RateLimited(retry_after=20), times=1)
    stage.sync_well(*users)
    assert 0 < sum(journey.naps) <= 20
    assert stage.pipeline.gate.throttled_seconds == pytest.approx(sum(journey.naps))


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (RateLimited(retry_after=86_400), "RATE_LIMITED", "RATE"),
        (QuotaExceeded(retry_after=300), "QUOTA_EXCEEDED", "QUOTA"),
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
    waited = sum(journey.naps)
    assert 20 < waited <= 40
    assert stage.calls(user_id="dora") == []
    # The next sync has a minute of its own.
    stage.simulator.clear_faults()
    stage.sync_well("dora", steps=PLAYS_ONLY)
    assert 0 < sum(journey.naps) - waited <= 40


@pytest.mark.parametrize("connections", [1, 16])
def test_a_storm_of_429_ends_with_bounded_sleeps(gated: Gated, connections: int) -> None:
    stage, journey = gated(connections=connections)
    users = connect(stage, *(f"user {n}" for n in range(12)))
    # Real time: the journey's naps do not bring Spotify's window to an end.
    stage.simulator.set_limits(calls_per_30s=20)
    outcomes = stage.sync(*users)
    assert set(codes(outcomes)) <= {None, "RATE_LIMITED"}
    assert "RATE_LIMITED" in codes(outcomes)
    assert max(journey.naps) <= 60
    if connections == 1:
        # With more, each nap moves the clock of all: waits side by side seem one after another.
        assert sum(journey.naps) <= 60
    # Each thread may have had a call on its way when the first 429 came, and again after a wait.
    unwelcome = [call for call in stage.calls() if call.status == 429]
    assert len(unwelcome) <= 3 * connections


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
    stage, _ = gated(Allowance(1000, 1000), connections=8)
    other, _ = gated(Allowance(1000, 1000))
    users = connect(stage, *(f"user {n}" for n in range(8)))
    stage.execute(
        "UPDATE spotify_pipeline.api_budget SET blocked_until = now(), blocked_reason = 'APP'"
    )
    # Also for those who ask while the probe is under way.
    stage.simulator.add_fault(Latency(0.2), endpoint="token", times=1)
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


# --- requests ---


def ask(stage: Stage, user_id: str, dispatch_key: str) -> list[UserOutcome]:
    """A person presses Sync, and a run answers."""
    stage.execute(
        "INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u) ON CONFLICT DO NOTHING",
        u=user_id,
    )
    stage.execute("UPDATE spotify_pipeline.sync_requests SET dispatch_key = :k", k=dispatch_key)
    return answer_requests(
        stage.pipeline,
        dispatch_key,
        f"run of {dispatch_key}",
        lambda users: stage.sync(*users),
    )


def test_a_request_that_meets_a_long_pause_is_queued_again_and_succeeds_after_it(
    gated: Gated,
) -> None:
    stage, _ = gated()
    connect(stage, "anna")
    number = stage.simulator.add_fault(QuotaExceeded())
    assert codes(ask(stage, "anna", "first")) == ["QUOTA_EXCEEDED"]
    (request,) = stage.rows(t.sync_requests)
    assert (request["status"], request["dispatch_key"], request["run_id"]) == ("queued", None, None)
    with stage.pipeline.engine.connect() as conn:
        shown = conn.execute(text("SELECT * FROM spotify_pipeline.sync_status")).one()
    assert (shown.state, shown.request_status) == ("blocked", "queued")
    assert shown.blocked_until is not None
    stage.simulator.clear_faults(number)
    stage.execute("UPDATE spotify_pipeline.api_budget SET blocked_until = now()")
    assert codes(ask(stage, "anna", "second")) == [None]
    (request,) = stage.rows(t.sync_requests)
    assert (request["status"], request["dispatch_key"]) == ("succeeded", "second")


def test_a_request_that_waited_out_a_pause_in_vain_has_used_an_attempt(gated: Gated) -> None:
    stage, _ = gated()
    connect(stage, "anna")
    stage.simulator.add_fault(RateLimited(retry_after=25))
    assert codes(ask(stage, "anna", "only")) == ["RATE_LIMITED"]
    (request,) = stage.rows(t.sync_requests)
    assert (request["status"], request["failures"]) == ("queued", 1)
