"""A 429 or a refusal of the app blocks all calls at once, and no call waits for long."""

import pytest
from sqlalchemy import text

from spotify_pipeline.domain.outcome import UserOutcome
from spotify_pipeline.domain.quota import Quota
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
from spotify_pipeline.sync.requests import answer_requests
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario
from spotify_pipeline_tests.sync.rate_limiter.rate_limit_fixture import (
    PLAYS_ONLY,
    RateLimitFixtures,
    block_of,
    codes,
    connect,
)


def test_a_short_pause_is_slept_out_and_the_sync_succeeds(rate_limited: RateLimitFixtures) -> None:
    scenario, journey = rate_limited()
    users = connect(scenario, "anna", "ben")
    scenario.simulator.add_fault(RateLimited(retry_after=20), times=1)
    scenario.sync_well(*users)
    assert 0 < sum(journey.naps) <= 20
    assert scenario.pipeline.rate_limiter.throttled_seconds == pytest.approx(sum(journey.naps))


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (RateLimited(retry_after=86_400), "RATE_LIMITED", "RATE"),
        (QuotaExceeded(retry_after=300), "QUOTA_EXCEEDED", "QUOTA"),
        (QuotaExceeded(), "QUOTA_EXCEEDED", "QUOTA"),
    ],
)
def test_a_long_pause_ends_the_sync_after_one_call_without_a_probe(
    rate_limited: RateLimitFixtures, fault: Fault, code: str, reason: str
) -> None:
    scenario, journey = rate_limited()
    users = connect(scenario, "anna", "ben", "cleo")
    number = scenario.simulator.add_fault(fault)
    assert codes(scenario.sync(*users)) == [code] * 3
    assert [call.endpoint for call in scenario.calls()] == ["token", "recently_played"]
    assert block_of(scenario)[0] == reason
    assert block_of(scenario)[1] == pytest.approx(fault.retry_after, abs=60)
    # No call probes before the block has passed.
    scenario.simulator.clear_faults(number)
    scenario.simulator.forget_calls()
    assert codes(scenario.sync(*users)) == [code] * 3
    assert (scenario.calls(), journey.naps) == ([], [])
    scenario.execute("UPDATE spotify_pipeline.api_budget SET blocked_until = now()")
    scenario.sync_well(*users)


def test_a_block_that_one_process_met_stops_another_before_it_refreshes_a_token(
    rate_limited: RateLimitFixtures,
) -> None:
    one, _ = rate_limited()
    other, journey = rate_limited()
    connect(one, "anna", "ben")
    one.simulator.add_fault(QuotaExceeded())
    one.sync("anna")
    one.simulator.forget_calls()
    assert codes(other.sync("ben")) == ["QUOTA_EXCEEDED"]
    assert (other.calls(), journey.naps) == ([], [])


def test_a_sync_of_many_waits_a_minute_at_most_and_then_ends_without_a_call(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, journey = rate_limited()
    users = connect(scenario, "anna", "ben", "cleo", "dora")
    # Every second call is refused: a user's first, and after the wait the next user's first.
    scenario.simulator.add_fault(RateLimited(retry_after=40), endpoint="recently_played", every=2)
    outcomes = scenario.sync(*users, steps=PLAYS_ONLY)
    assert codes(outcomes) == [None, None, "RATE_LIMITED", "RATE_LIMITED"]
    waited = sum(journey.naps)
    assert 20 < waited <= 40
    assert scenario.calls(user_id="dora") == []
    # The next sync has a minute of its own.
    scenario.simulator.clear_faults()
    scenario.sync_well("dora", steps=PLAYS_ONLY)
    assert 0 < sum(journey.naps) - waited <= 40


@pytest.mark.parametrize("connections", [1, 16])
def test_a_storm_of_429_ends_with_bounded_sleeps(
    rate_limited: RateLimitFixtures, connections: int
) -> None:
    scenario, journey = rate_limited(connections=connections)
    users = connect(scenario, *(f"user {n}" for n in range(12)))
    # Real time: the journey's naps do not bring Spotify's window to an end.
    scenario.simulator.set_limits(calls_per_30s=20)
    outcomes = scenario.sync(*users)
    assert set(codes(outcomes)) <= {None, "RATE_LIMITED"}
    assert "RATE_LIMITED" in codes(outcomes)
    assert max(journey.naps) <= 60
    if connections == 1:
        # With more, each nap moves the clock of all: waits side by side seem one after another.
        assert sum(journey.naps) <= 60
    # Each thread may have had a call on its way when the first 429 came, and again after a wait.
    unwelcome = [call for call in scenario.calls() if call.status == 429]
    assert len(unwelcome) <= 3 * connections


# --- the app refused ---


@pytest.mark.parametrize("fault", [InvalidClient(), Forbidden("not_premium")])
def test_a_refused_app_blocks_all_calls_for_an_hour_and_changes_no_user(
    rate_limited: RateLimitFixtures, fault: Fault
) -> None:
    scenario, _ = rate_limited()
    other, _ = rate_limited()
    users = connect(scenario, "anna", "ben", "cleo")
    scenario.simulator.add_fault(fault)
    before = scenario.rows(t.users)
    assert codes(scenario.sync(*users)) == ["APP_BLOCKED"] * 3
    assert len(scenario.calls()) <= 2
    assert block_of(scenario)[0] == "APP"
    assert block_of(scenario)[1] == pytest.approx(3600, abs=60)
    assert scenario.rows(t.users) == before
    scenario.simulator.forget_calls()
    # Refused without a call, which makes the hour no longer.
    until = block_of(scenario)[1]
    assert codes(other.sync(*users)) == ["APP_BLOCKED"] * 3
    assert scenario.calls() == []
    assert block_of(scenario)[1] <= until


def test_after_the_hour_one_call_probes_and_the_others_are_still_refused(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited(connections=8)
    users = connect(scenario, *(f"user {n}" for n in range(8)))
    scenario.simulator.add_fault(Forbidden("not_premium"))
    scenario.execute(
        "UPDATE spotify_pipeline.api_budget SET blocked_until = now(), blocked_reason = 'APP'"
    )
    assert codes(scenario.sync(*users)) == ["APP_BLOCKED"] * 8
    assert [call.endpoint for call in scenario.calls()] == ["token", "recently_played"]
    assert block_of(scenario)[1] == pytest.approx(3600, abs=60)


def test_a_successful_probe_ends_the_block_for_all_processes(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited(Quota(1000, 1000), connections=8)
    other, _ = rate_limited(Quota(1000, 1000))
    users = connect(scenario, *(f"user {n}" for n in range(8)))
    scenario.execute(
        "UPDATE spotify_pipeline.api_budget SET blocked_until = now(), blocked_reason = 'APP'"
    )
    # Also for those who ask while the probe is under way.
    scenario.simulator.add_fault(Latency(0.2), endpoint="token", times=1)
    scenario.sync_well(*users)
    assert block_of(scenario) == (None, 0)
    other.sync_well(*users)


def test_an_inconclusive_probe_leaves_the_app_blocked(rate_limited: RateLimitFixtures) -> None:
    scenario, _ = rate_limited()
    connect(scenario, "anna")
    scenario.simulator.add_fault(ServerError(), endpoint="recently_played")
    scenario.execute(
        "UPDATE spotify_pipeline.api_budget SET blocked_until = now(), blocked_reason = 'APP'"
    )
    assert codes(scenario.sync("anna", steps=PLAYS_ONLY)) == ["SPOTIFY_UNAVAILABLE"]
    assert block_of(scenario)[0] == "APP"
    assert block_of(scenario)[1] == pytest.approx(3600, abs=60)


# --- requests ---


def ask(scenario: Scenario, user_id: str, dispatch_key: str) -> list[UserOutcome]:
    """A user presses Sync, and a run answers."""
    scenario.execute(
        "INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u) ON CONFLICT DO NOTHING",
        u=user_id,
    )
    scenario.execute("UPDATE spotify_pipeline.sync_requests SET dispatch_key = :k", k=dispatch_key)
    return answer_requests(
        scenario.pipeline,
        dispatch_key,
        f"run of {dispatch_key}",
    )


def test_a_request_that_meets_a_long_pause_is_queued_again_and_succeeds_after_it(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited()
    connect(scenario, "anna")
    number = scenario.simulator.add_fault(QuotaExceeded())
    assert codes(ask(scenario, "anna", "first")) == ["QUOTA_EXCEEDED"]
    (request,) = scenario.rows(t.sync_requests)
    assert (request["status"], request["dispatch_key"], request["run_id"]) == ("queued", None, None)
    with scenario.pipeline.engine.connect() as conn:
        shown = conn.execute(text("SELECT * FROM spotify_pipeline.sync_status")).one()
    assert (shown.state, shown.request_status) == ("blocked", "queued")
    assert shown.blocked_until is not None
    scenario.simulator.clear_faults(number)
    scenario.execute("UPDATE spotify_pipeline.api_budget SET blocked_until = now()")
    assert codes(ask(scenario, "anna", "second")) == [None]
    (request,) = scenario.rows(t.sync_requests)
    assert (request["status"], request["dispatch_key"]) == ("succeeded", "second")


def test_a_request_that_fails_after_a_pause_has_used_an_attempt(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited()
    connect(scenario, "anna")
    scenario.simulator.add_fault(RateLimited(retry_after=25))
    assert codes(ask(scenario, "anna", "only")) == ["RATE_LIMITED"]
    (request,) = scenario.rows(t.sync_requests)
    assert (request["status"], request["failures"]) == ("queued", 1)
