"""The program on a fresh database, in this process or as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, Engine

from spotify_pipeline.cli.program import program
from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.settings import variables
from spotify_pipeline.simulator.control import ListenerInfo, Simulator
from spotify_pipeline.simulator.process import running_simulator
from spotify_pipeline_tests.conftest import temporary_database

# `users add` prints neither; a test that finds one of these has found a leak.
CLIENT_SECRET = "canary-client-secret"
TOKEN_KEY = new_key()[1]
Run = Callable[..., Result]


@pytest.fixture
def environ(database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of the program: an own server, an own home, and nothing of the machine's."""
    for name in (*variables(), "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPOTIFY_PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(database))
    monkeypatch.setenv("SPOTIFY_PIPELINE_TOKEN_KEYS", TOKEN_KEY)
    monkeypatch.setenv("SPOTIFY_CLIENT_ID", "the-app")
    monkeypatch.setenv("SPOTIFY_CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return monkeypatch


@pytest.fixture
def run(environ: pytest.MonkeyPatch) -> Run:
    """Runs the program in this process: `run("users", "add", "mira", stdin="token")`."""

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(program, arguments, stdin, prog_name="spotify-pipeline")

    return run


@pytest.fixture
def process(environ: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program as a process: what a person gets, exit code and all."""

    def process(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "spotify_pipeline.cli.main", *arguments],
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return process


@pytest.fixture(scope="session")
def _dagster_database(_admin: Engine) -> Iterator[URL]:
    with temporary_database(_admin, "template0") as url:
        yield url


@pytest.fixture
def dagster(environ: pytest.MonkeyPatch, _dagster_database: URL) -> URL:
    """Dagster's own database: the same one for all tests, because making its tables takes 1 s."""
    environ.setenv("DAGSTER_PG_URL", with_password(_dagster_database))
    return _dagster_database


@pytest.fixture(scope="session")
def _simulator() -> Iterator[Simulator]:
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(environ: pytest.MonkeyPatch, _simulator: Simulator) -> Simulator:
    """A local Spotify that the program is pointed at."""
    for name, value in _simulator.environment.items():
        environ.setenv(name, value)
    return _simulator


@pytest.fixture
def listener(simulator: Simulator, run: Run) -> Callable[..., ListenerInfo]:
    """Makes a listener at the simulator and adds them with `users add`."""

    def add(user_id: str, timezone: str = "UTC", token: str | None = None) -> ListenerInfo:
        info = simulator.add_listener(user_id, timezone, display_name=f"{user_id} the listener")
        arguments = ["users", "add", user_id, "--timezone", timezone, "--refresh-token-stdin"]
        added = run(*arguments, stdin=token or info.refresh_token)
        assert added.exit_code == 0, added.output
        return info

    return add


def with_password(url: URL) -> str:
    """The URL as one configures it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def only_line(result: Result) -> str:
    """The one line that the program said on stderr."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
