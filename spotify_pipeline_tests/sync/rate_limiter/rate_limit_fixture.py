"""A scenario behind a rate limiter whose waits take no time, and its assertions."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Lock

from sqlalchemy import Engine, update

from spotify_pipeline.domain.outcome import RECENTLY_PLAYED, UserOutcome
from spotify_pipeline.domain.quota import Quota
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.oauth import OAuthClient
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import api_budget
from spotify_pipeline.sync.rate_limiter import SharedRateLimiter
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

FREE = Quota(0, 0)
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
                    rate_tat=row.rate_tat - step,
                    blocked_until=row.blocked_until - step,
                    outage_until=row.outage_until - step,
                )
            )

    def monotonic(self) -> float:
        return time.monotonic() + sum(self.naps)


# Called with an allowance and a number of connections.
RateLimitFixtures = Callable[..., tuple[Scenario, Journey]]


@contextmanager
def rate_limit_fixtures(scenario: Scenario) -> Iterator[RateLimitFixtures]:
    """The scenario with its own rate limiter, as in another process; one thread by default."""
    transports = []

    def rate_limited(quota: Quota = FREE, connections: int = 1) -> tuple[Scenario, Journey]:
        pipeline, journey = scenario.pipeline, Journey(scenario.pipeline.engine)
        rate_limiter = SharedRateLimiter(
            pipeline.engine, quota, sleep=journey.sleep, monotonic=journey.monotonic
        )
        settings = pipeline.settings.model_copy(update={"connections": connections})
        transport = Transport(rate_limiter=rate_limiter, sleep=lambda _: None)
        transports.append(transport)
        oauth = OAuthClient(
            settings.accounts_url,
            scenario.simulator.client_id,
            scenario.simulator.client_secret,
            transport,
        )
        api = SpotifyApi(settings.api_url, transport)
        changed = replace(
            pipeline, settings=settings, rate_limiter=rate_limiter, api=api, oauth=oauth
        )
        return replace(scenario, pipeline=changed), journey

    yield rate_limited
    for transport in transports:
        transport.close()


def connect(scenario: Scenario, *user_ids: str) -> tuple[str, ...]:
    """People whose access tokens have ended; whose the tokens are was asked before."""
    for user_id in user_ids:
        scenario.connect(user_id, kind="light")
    scenario.execute(
        "UPDATE spotify_pipeline.user_tokens"
        " SET sealed_access_token = '', access_expires_at = now()"
    )
    return user_ids


def codes(outcomes: list[UserOutcome]) -> list[str | None]:
    return [outcome.error_code for outcome in outcomes]


def block_of(scenario: Scenario) -> tuple[str | None, float]:
    """The reason of the block, and for how many seconds from now."""
    with scenario.pipeline.engine.connect() as conn:
        state = api_budget.read_state(conn)
    if state.blocked_until is None:
        return None, 0
    return state.blocked_reason, (state.blocked_until - state.now).total_seconds()
