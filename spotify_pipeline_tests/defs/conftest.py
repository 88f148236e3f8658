"""A Dagster instance in Postgres beside the pipeline's database; one simulator per worker."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import URL, Engine

from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.defs.dagster_cluster import (
    DagsterCluster,
    dagster_environment,
    open_cluster,
    set_environment,
)
from spotify_pipeline_tests.defs.definitions_fixture import definitions_of
from spotify_pipeline_tests.sync.pipeline_fixture import (
    NOON,
    Scenario,
    environment,
    open_scenario,
    put_right,
)


@pytest.fixture(scope="session")
def shared_simulator() -> Iterator[Simulator]:
    with running_simulator(now=NOON) as simulator:
        yield simulator


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Simulator:
    """It stands still at noon."""
    put_right(shared_simulator)
    return shared_simulator


@pytest.fixture(scope="session")
def dagster_template(_admin: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with Dagster's tables, made once: that takes Dagster seconds."""
    with temporary_database(_admin, "template0") as url, pytest.MonkeyPatch.context() as patch:
        set_environment(patch, dagster_environment(url, tmp_path_factory.mktemp("home")))
        with opened_instance(load_settings()):
            pass
        yield str(url.database)


@pytest.fixture
def dagster_database(_admin: Engine, dagster_template: str) -> Iterator[URL]:
    """A fresh database with Dagster's tables."""
    with temporary_database(_admin, dagster_template) as url:
        yield url


@pytest.fixture
def environ(
    database: URL,
    dagster_database: URL,
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """The environment of the test, set: this process is configured like a real one."""
    environ = environment(database, simulator) | dagster_environment(dagster_database, tmp_path)
    set_environment(monkeypatch, environ)
    return environ


@pytest.fixture
def open_another(
    simulator: Simulator, environ: dict[str, str]
) -> Iterator[Callable[..., Scenario]]:
    """Opens a pipeline on the same database."""
    with ExitStack() as opened:
        yield lambda **more: opened.enter_context(open_scenario(simulator, environ | more))


@pytest.fixture
def scenario(open_another: Callable[..., Scenario]) -> Iterator[Scenario]:
    """A pipeline at noon, without users; staged definitions work with it."""
    scenario = open_another()
    with definitions_of(scenario.pipeline):
        yield scenario


@pytest.fixture
def instance(environ: dict[str, str]) -> Iterator[dg.DagsterInstance]:
    """A real instance, configured by the project's dagster.yaml."""
    with opened_instance(load_settings()) as instance:
        yield instance


@pytest.fixture(scope="module")
def cluster(
    _admin: Engine, _template: str, dagster_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagsterCluster]:
    """Everything that runs, once for the tests of a file."""
    home = tmp_path_factory.mktemp("home")
    with open_cluster(_admin, _template, dagster_template, home) as cluster:
        yield cluster
