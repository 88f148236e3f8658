"""Our own limits: who goes first, how long a call waits at most, and what is asked of Postgres."""

import time
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, update

from spotify_pipeline.domain.outcome import (
    FETCHED,
    REBUILT,
    RECENTLY_PLAYED,
    TOP_ARTISTS,
    TOP_TRACKS,
)
from spotify_pipeline.domain.quota import Quota
from spotify_pipeline.spotify.errors import RateLimited
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import api_budget
from spotify_pipeline.sync.rate_limiter import SharedRateLimiter
from spotify_pipeline.sync.runs import skip_reason
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline_tests.sync.rate_limiter.rate_limit_fixture import (
    FREE,
    PLAYS_ONLY,
    RateLimitFixtures,
    connect,
)


def test_the_pace_is_kept_and_its_waits_are_counted(rate_limited: RateLimitFixtures) -> None:
    quota = Quota(10, 0, window_seconds=5)
    scenario, journey = rate_limited(quota, connections=4)
    users = connect(scenario, "anna", "ben")
    began_at = journey.monotonic()
    scenario.sync_well(*users)
    # 14 calls, of which one goes at once.
    assert journey.monotonic() - began_at >= 13 * quota.interval_seconds
    assert scenario.pipeline.rate_limiter.throttled_seconds > 0
    assert {call.status for call in scenario.calls()} == {200}
    # Spotify does not count the two refreshes.
    assert (scenario.pipeline.rate_limiter.calls, len(scenario.calls())) == (14, 16)


def test_a_pace_that_would_make_a_call_wait_for_more_than_a_minute_refuses_it(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, journey = rate_limited(Quota(1, 0, window_seconds=90))
    (outcome,) = scenario.sync(*connect(scenario, "anna"))
    assert next(iter(outcome.done)) == RECENTLY_PLAYED
    assert outcome.error_code == "RATE_LIMITED"
    assert journey.naps == []


def test_top_lists_stop_first_then_plays_and_requests_last(rate_limited: RateLimitFixtures) -> None:
    scenario, journey = rate_limited(Quota(0, 10))
    users = connect(scenario, "anna", "ben", "cleo", "dora")

    def scheduled(user_id: str) -> list[str]:
        (outcome,) = sync_users(scenario.pipeline, [user_id], scheduled=True)
        assert {failure.code for failure in outcome.failures.values()} <= {"QUOTA_EXCEEDED"}
        return [step for step in FETCHED if step in outcome.done]

    assert scheduled(users[0]) == [RECENTLY_PLAYED, *TOP_ARTISTS, *list(TOP_TRACKS)[:2]]
    assert scheduled(users[1]) == [RECENTLY_PLAYED]
    assert scheduled(users[2]) == [RECENTLY_PLAYED]
    assert scheduled(users[3]) == []
    assert scenario.calls(user_id="dora") == []
    (requested,) = scenario.sync("dora", steps=(RECENTLY_PLAYED, *TOP_ARTISTS))
    assert len(requested.done) == 2
    assert requested.error_code == "QUOTA_EXCEEDED"
    assert (
        "the calls of these 24 hours are used up"
        in requested.failures["top_artists/medium_term"].message
    )
    assert journey.naps == []


def test_when_the_day_runs_low_the_next_poll_is_later(rate_limited: RateLimitFixtures) -> None:
    scenario, _ = rate_limited(Quota(0, 10))
    plenty, _ = rate_limited(Quota(0, 1000))
    scenario.connect("anna")
    plenty.sync_well("anna", steps=PLAYS_ONLY)
    usual = scenario.row(t.sync_state, "anna")["next_due_at"] - scenario.clock()
    with scenario.pipeline.engine.begin() as conn:
        for _ in range(6):
            assert api_budget.take(conn, Quota(0, 10), "plays") is None
    scenario.sync_well("anna", steps=PLAYS_ONLY)
    # 7 of the 8 calls that plays may take are gone.
    stretched = scenario.row(t.sync_state, "anna")["next_due_at"] - scenario.clock()
    # Both are rounded down to a quarter of an hour.
    assert 4 * usual <= stretched < 4 * (usual + timedelta(minutes=15))


def test_a_scheduled_run_without_due_users_is_skipped(
    rate_limited: RateLimitFixtures,
) -> None:
    scenario, _ = rate_limited(Quota(0, 10))
    connect(scenario, "anna")

    def spend(calls: int) -> None:
        with scenario.pipeline.engine.begin() as conn:
            for _ in range(calls):
                assert api_budget.take(conn, Quota(0, 10), "request") is None

    def reasons() -> list[str | None]:
        scenario.pipeline.rate_limiter.begin()
        return [
            skip_reason(scenario.pipeline, "eligible", steps) for steps in (FETCHED, TOP_ARTISTS)
        ]

    used_up = "the calls of these 24 hours are used up"
    spend(5)
    assert reasons() == [None, None]
    spend(1)
    assert [reason is None for reason in reasons()] == [True, False]
    spend(2)
    assert all(used_up in (reason or "") for reason in reasons())
    assert skip_reason(scenario.pipeline, "eligible", REBUILT) is None
    scenario.execute(
        "UPDATE spotify_pipeline.api_budget SET day_calls = '{}',"
        " blocked_until = now() + interval '1 hour', blocked_reason = 'RATE'"
    )
    assert all("Spotify asked for a pause" in (reason or "") for reason in reasons())


# --- the rate limiter alone ---


def test_a_sync_of_many_users_leaves_the_next_call_to_a_user_who_waits_alone(
    rate_limited: RateLimitFixtures,
) -> None:
    # Nine calls at once; then minutes pass until the next, longer than a call waits.
    quota = Quota(90, 0, window_seconds=30_000)
    many, alone = (rate_limited(quota)[0].pipeline.rate_limiter for _ in range(2))
    many.begin(users=2)
    for _ in range(8):
        many.acquire("request")
    with pytest.raises(RateLimited):
        many.acquire("request")
    alone.begin()
    alone.acquire("request")
    with pytest.raises(RateLimited):
        alone.acquire("request")


def refused(rate_limiter: SharedRateLimiter) -> bool:
    try:
        rate_limiter.acquire("plays")
    except RateLimited:
        return True
    return False


def test_a_call_that_is_not_counted_is_held_back_by_a_block_only(engine: Engine) -> None:
    rate_limiter = SharedRateLimiter(engine, Quota(0, 1))
    rate_limiter.acquire("request")
    with pytest.raises(RateLimited):
        rate_limiter.acquire("request")
    rate_limiter.acquire(None)
    assert rate_limiter.blocked(3600, "RATE") is False
    with pytest.raises(RateLimited):
        rate_limiter.acquire(None)


def test_without_limits_calls_are_not_counted_and_a_block_is_seen_within_a_second(
    engine: Engine,
) -> None:
    rate_limiter = SharedRateLimiter(engine, FREE)
    for _ in range(100):
        rate_limiter.acquire("plays")
    with engine.begin() as conn:
        assert api_budget.read_state(conn).calls_of_day() == 0
        api_budget.block(conn, 3600, "QUOTA")
    written_at = time.monotonic()
    while not refused(rate_limiter):
        assert time.monotonic() - written_at < 2


def test_a_block_that_was_lifted_is_seen_within_a_second(engine: Engine) -> None:
    rate_limiter = SharedRateLimiter(engine, FREE)
    rate_limiter.blocked(3600, "QUOTA")
    with pytest.raises(RateLimited):
        rate_limiter.check("plays")
    with engine.begin() as conn:
        conn.execute(update(t.api_budget).values(blocked_until=func.now()))
    lifted_at = time.monotonic()
    while refused(rate_limiter):
        assert time.monotonic() - lifted_at < 2
