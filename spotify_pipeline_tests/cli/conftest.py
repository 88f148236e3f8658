"""The program on a fresh database, in this process or as a process of its own."""

import base64
import gc
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, Engine

from spotify_pipeline.cli.program import program
from spotify_pipeline.settings import variables
from spotify_pipeline.simulator.control import ListenerInfo, Simulator
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline_tests.conftest import temporary_database

# `users add` prints neither; a test that finds one of these has found a leak.
CLIENT_SECRET = "canary-client-secret"
# Fixed: it stands in the names of tests, which all workers must agree on.
TOKEN_KEY = f"testkey01:{base64.b64encode(bytes(range(32))).decode()}"
COMMAND = [sys.executable, "-m", "spotify_pipeline.cli.main"]
Run = Callable[..., Result]


@pytest.fixture
def environ(database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of the program: an own server, an own home, and nothing of the machine's."""
    for name in (*variables(), "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    # Of other tests in this process.
    monkeypatch.setattr("spotify_pipeline.redaction._remembered", set())
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
        result = CliRunner().invoke(program, arguments, stdin, prog_name="spotify-pipeline")
        gc.enable()  # a command may leave it disabled, for it ends the process
        return result

    return run


@pytest.fixture
def process(environ: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program as a process, with its output and exit code."""

    def process(
        *arguments: str, stdout: Any = subprocess.PIPE, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )

    return process


@pytest.fixture
def on_a_terminal(environ: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs the program with a terminal as standard output and error; returns what it showed."""

    def on_a_terminal(*arguments: str, **more: str) -> str:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, "TERM": "xterm-256color", **more},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ) as program:
            os.close(theirs)
            shown = b""
            try:
                while part := os.read(ours, 4096):
                    shown += part
            except OSError:  # Linux's way to say that the other side has ended
                pass
            os.close(ours)
            assert program.wait(30) == 0, shown
        return shown.decode()

    return on_a_terminal


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


def only_line(result: Result | subprocess.CompletedProcess[str]) -> str:
    """The one line that the program said on stderr."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
