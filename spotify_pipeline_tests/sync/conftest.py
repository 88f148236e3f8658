"""A stage for every test; the tests of a worker share one simulator, whose clock they may move."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import URL

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.process import running_simulator
from spotify_pipeline_tests.sync.gated import Gated, gated_stages
from spotify_pipeline_tests.sync.stage import NOON, Stage, environment, open_stage, put_right


@pytest.fixture(scope="session")
def shared_simulator() -> Iterator[Simulator]:
    with running_simulator(now=NOON) as simulator:
        yield simulator


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Simulator:
    """It stands still at noon; listeners of earlier tests are replaced when they come again."""
    put_right(shared_simulator)
    return shared_simulator


@pytest.fixture
def environ(database: URL, simulator: Simulator) -> dict[str, str]:
    """The environment of the test's pipelines."""
    return environment(database, simulator)


@pytest.fixture
def open_another(simulator: Simulator, environ: dict[str, str]) -> Iterator[Callable[..., Stage]]:
    """Opens a pipeline of its own on the same database, as another process would."""
    with ExitStack() as opened:
        yield lambda **more: opened.enter_context(open_stage(simulator, environ | more))


@pytest.fixture
def stage(open_another: Callable[..., Stage]) -> Stage:
    """A pipeline at noon, without users."""
    return open_another()


@pytest.fixture
def gated(stage: Stage) -> Iterator[Gated]:
    """Opens the stage behind a gate with limits, where waiting takes no time."""
    with gated_stages(stage) as gated:
        yield gated
