"""A stage behind a gate whose waits take no time, and what the gate's tests ask of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Lock

from sqlalchemy import Engine, update

from spotify_pipeline.domain.budget import Allowance
from spotify_pipeline.domain.steps import RECENTLY_PLAYED
from spotify_pipeline.spotify.accounts import Accounts
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.transport import Transport
from spotify_pipeline.storage import budget
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.gate import BudgetGate
from spotify_pipeline.sync.outcome import UserOutcome
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
                    rate_tat=row.rate_tat - step,
                    blocked_until=row.blocked_until - step,
                    outage_until=row.outage_until - step,
                )
            )

    def monotonic(self) -> float:
        return time.monotonic() + sum(self.naps)


# Called with an allowance and a number of connections.
Gated = Callable[..., tuple[Stage, Journey]]


@contextmanager
def gated_stages(stage: Stage) -> Iterator[Gated]:
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
    """People whose access tokens have ended; whose the tokens are was asked before."""
    for user_id in user_ids:
        stage.connect(user_id, person="light")
    stage.execute(
        "UPDATE spotify_pipeline.user_tokens"
        " SET sealed_access_token = '', access_expires_at = now()"
    )
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
