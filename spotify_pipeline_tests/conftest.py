"""A real Postgres for the tests, and a fresh database for each that asks for one.

The server is SPOTIFY_PIPELINE_TEST_DATABASE_URL (its user must be able to create databases), or an
embedded one that all workers of a run share. A database is a copy of a template that was migrated
once per worker: 30 ms on a RAM disk, if a large enough one exists, 300 ms on a slow disk.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from sqlalchemy import URL, Connection, Engine, text

from spotify_pipeline import redaction
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.postgres.engine import make_engine, normalise_url
from spotify_pipeline.storage.postgres.roles import give_all_rights
from spotify_pipeline.storage.postgres.schema import init_db

# The same examples in every run, so that a change is what makes a test fail; a soak draws new ones.
hypothesis.settings.register_profile("quick", max_examples=10, deadline=None, derandomize=True)
hypothesis.settings.register_profile("fast", max_examples=50, deadline=None, derandomize=True)
hypothesis.settings.register_profile("soak", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

RAM_DISK = Path("/dev/shm")
ROOM_BYTES = 2_000_000_000
HOME_PREFIX = "spotify_pipeline_tests_"

# Unsafe but fast: a power cut may only destroy the tests' databases.
CARELESS = ("fsync", "synchronous_commit", "full_page_writes")


@pytest.fixture(autouse=True)
def no_secret_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what a test adds to the secrets to redact: a password may be a name later."""
    monkeypatch.setattr(redaction, "_remembered", set(redaction._remembered))


@pytest.fixture(autouse=True)
def no_instance_of_another_test() -> Iterator[None]:
    """Resets the storage that Dagster keeps in a context variable and loads definitions with.

    It belongs to the instance that was opened last, or to a closed one if two were not closed in
    the order of their opening.
    """
    dagsters = sys.modules.get("dagster._core.storage.defs_state.base")
    if dagsters is None:
        yield
    else:
        with dagsters.set_defs_state_storage(None):
            yield


def pytest_configure(config: pytest.Config) -> None:
    """The process that starts the workers chooses the home of the server they share."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _remove_abandoned_homes()
        roomy = RAM_DISK.is_dir() and shutil.disk_usage(RAM_DISK).free > ROOM_BYTES
        home = tempfile.mkdtemp(prefix=HOME_PREFIX, dir=RAM_DISK if roomy else None)
        os.environ["SPOTIFY_PIPELINE_TEST_HOME"] = home


def _remove_abandoned_homes() -> None:
    # A killed run could not clean up, and a RAM disk is memory.
    hour_ago = time.time() - 3600
    for home in RAM_DISK.glob(HOME_PREFIX + "*"):
        if home.stat().st_mtime < hour_ago and not embedded.running_server(home):
            shutil.rmtree(home, ignore_errors=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """After all workers: waits for their server to stop and deletes its home."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        home = Path(os.environ["SPOTIFY_PIPELINE_TEST_HOME"])
        deadline = time.monotonic() + 10
        while embedded.running_server(home) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(home, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the measurements of tests: their properties named `figure`, from all workers."""
    figures = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, text in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("figures")
        for text in sorted(figures):
            terminalreporter.line(text)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[URL]:
    """The URL of the server's database from which others are created. One server per test run."""
    if given := os.environ.get("SPOTIFY_PIPELINE_TEST_DATABASE_URL"):
        yield normalise_url(given)
        return
    with embedded.start(Path(os.environ["SPOTIFY_PIPELINE_TEST_HOME"])) as server:
        url = server.url("postgres")
        engine = make_engine(url)
        with _autocommit(engine) as connection:
            for name in CARELESS:
                connection.execute(text(f"ALTER SYSTEM SET {name} = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield url


@pytest.fixture(scope="session")
def _admin(postgres_url: URL) -> Iterator[Engine]:
    engine = make_engine(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _template(_admin: Engine) -> Iterator[str]:
    with temporary_database(_admin, "template0") as url:
        engine = make_engine(url)
        init_db(engine)
        give_all_rights(engine, load_settings({}))
        engine.dispose()
        yield str(url.database)


@pytest.fixture
def empty_database(_admin: Engine) -> Iterator[URL]:
    """An empty database."""
    with temporary_database(_admin, "template0") as url:
        yield url


@pytest.fixture
def database(_admin: Engine, _template: str) -> Iterator[URL]:
    """A fresh database with the schema."""
    with temporary_database(_admin, _template) as url:
        yield url


@pytest.fixture
def engine(database: URL) -> Iterator[Engine]:
    """An engine on a fresh database with the schema."""
    engine = make_engine(database)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """An autocommit connection to a fresh database with the schema."""
    with _autocommit(engine) as connection:
        yield connection


def _autocommit(engine: Engine) -> Connection:
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def temporary_database(server: Engine, template: str) -> Iterator[URL]:
    """A database copied from a template on an engine's server; dropped afterwards."""
    name = f"test_{uuid4().hex}"
    with _autocommit(server) as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'"))
    yield server.url.set(database=name)
    with _autocommit(server) as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
