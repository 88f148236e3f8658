"""One budget for eight processes, counted where Spotify counts: at the receiving end."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from spotify_pipeline.domain.quota import PERMIT_SECONDS, TRAVEL_SECONDS
from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.storage.work import api_budget
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

PROCESSES = 8
CALLS = 60
WINDOW_SECONDS = 5.0
HAMMER_SECONDS = 9.0
COMMAND = [sys.executable, "-m", "spotify_pipeline_tests.sync.rate_limiter.rate_limit_worker"]
Caller = subprocess.Popen[str]


@pytest.fixture
def callers(scenario: Scenario) -> Iterator[list[Caller]]:
    """Eight processes that wait for a word to begin."""
    listener = scenario.simulator.add_listener("anna", kind="light")
    order = {
        "database": scenario.pipeline.engine.url.render_as_string(hide_password=False),
        "spotify": scenario.simulator.url,
        "token": scenario.pipeline.oauth.refresh(listener.refresh_token).access_token,
        "calls": CALLS,
        "window": WINDOW_SECONDS,
    }
    scenario.simulator.forget_calls()
    with ExitStack() as running:
        callers = []
        for _ in range(PROCESSES):
            caller = subprocess.Popen(
                COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            running.enter_context(caller)
            running.callback(caller.kill)
            say(caller, json.dumps(order))
            callers.append(caller)
        assert {receive(caller) for caller in callers} == {"ready"}
        yield callers


def say(caller: Caller, line: str) -> None:
    assert caller.stdin is not None
    caller.stdin.write(line + "\n")
    caller.stdin.flush()


def receive(caller: Caller) -> str:
    assert caller.stdout is not None
    return caller.stdout.readline().strip()


def arrivals(simulator: Simulator) -> list[float]:
    return sorted(call.at for call in simulator.calls())


def test_eight_processes_stay_within_any_window_and_share_a_429_at_once(
    scenario: Scenario, callers: list[Caller]
) -> None:
    for caller in callers:
        say(caller, "go")
    time.sleep(HAMMER_SECONDS)
    with scenario.pipeline.engine.begin() as conn:
        api_budget.block(conn, 3600, "QUOTA")
    blocked_at = time.time()
    # Through Postgres alone: each of their threads is refused.
    assert {receive(caller) for caller in callers} == {'["QUOTA_EXCEEDED"]'}
    at = arrivals(scenario.simulator)
    most = max(sum(start <= arrival <= start + WINDOW_SECONDS for arrival in at) for start in at)
    assert most <= CALLS
    # They did not hold back either: half of what a window may hold, over and over.
    assert len(at) > CALLS / 2 * HAMMER_SECONDS / WINDOW_SECONDS
    # A call that was let through before may still be on its way.
    assert at[-1] < blocked_at + PERMIT_SECONDS + TRAVEL_SECONDS
    assert {call.status for call in scenario.simulator.calls()} == {200}
