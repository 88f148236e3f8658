"""A scenario per test; the tests of a worker share one simulator, whose clock they may move."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import URL

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline_tests.sync.pipeline_fixture import (
    NOON,
    Scenario,
    environment,
    open_scenario,
    put_right,
)
from spotify_pipeline_tests.sync.rate_limiter.rate_limit_fixture import (
    RateLimitFixtures,
    rate_limit_fixtures,
)


@pytest.fixture(scope="session")
def shared_simulator() -> Iterator[Simulator]:
    with running_simulator(now=NOON) as simulator:
        yield simulator


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Simulator:
    """The shared simulator, stopped at noon; a listener added again replaces the earlier one."""
    put_right(shared_simulator)
    return shared_simulator


@pytest.fixture
def environ(database: URL, simulator: Simulator) -> dict[str, str]:
    """The environment variables of the test's pipelines."""
    return environment(database, simulator)


@pytest.fixture
def open_another(
    simulator: Simulator, environ: dict[str, str]
) -> Iterator[Callable[..., Scenario]]:
    """Opens another pipeline on the same database, as another process would."""
    with ExitStack() as opened:
        yield lambda **more: opened.enter_context(open_scenario(simulator, environ | more))


@pytest.fixture
def scenario(open_another: Callable[..., Scenario]) -> Scenario:
    """A pipeline at noon, without users."""
    return open_another()


@pytest.fixture
def rate_limited(scenario: Scenario) -> Iterator[RateLimitFixtures]:
    """Opens the scenario behind a rate limiter with limits, where waiting takes no time."""
    with rate_limit_fixtures(scenario) as rate_limited:
        yield rate_limited
