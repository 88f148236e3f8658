"""Processes for the tests of the embedded Postgres: clients to kill, servers to look at."""

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import URL

from spotify_pipeline.storage.embedded.client import EmbeddedPostgres, running_server

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).parents[3]

# Joins, prints the result, and stays until its standard input ends.
CLIENT = """
import json, sys
from pathlib import Path
from spotify_pipeline.storage.embedded.client import EmbeddedPostgresError, running_server, start
try:
    server = start(Path(sys.argv[1]))
    url = server.url()
    pid = running_server(Path(sys.argv[1])).pid
    print(json.dumps({"url": url.render_as_string(False), "pid": pid}), flush=True)
except EmbeddedPostgresError as error:
    print(json.dumps({"error": str(error)}), flush=True)
sys.stdin.read()
"""


class Client:
    """A process that has joined the server of a home; `prefix` runs it as another user."""

    def __init__(self, home: Path, prefix: Sequence[str] = (), script: str = CLIENT) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", script, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env={**os.environ, "SECRET_OF_THE_CALLER": "hunter2"},
        )

    def answer(self) -> dict:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def leave(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def client(home: Path, prefix: Sequence[str] = (), script: str = CLIENT) -> Iterator[Client]:
    joined = Client(home, prefix, script)
    try:
        yield joined
    finally:
        joined.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def until(condition: Callable[[], object], patience_s: float = 20) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.05)


def postmaster(home: Path) -> psutil.Process:
    server = running_server(home)
    assert server
    return psutil.Process(server.pid)


def has_ended(process: psutil.Process) -> bool:
    # A zombie has ended, though its parent has not waited for it.
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stays(condition: Callable[[], object], for_s: float) -> bool:
    """Whether something holds for a while."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        if not condition():
            return False
        time.sleep(0.05)
    return True


def processes_of(home: Path) -> list[psutil.Process]:
    """The supervisor and the Postgres programs that were started for a home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        ours = "spotify_pipeline.storage.embedded.supervisor" in command or any(
            part.endswith(("/postgres", "/initdb")) for part in command[:1]
        )
        if ours and any(str(home) in part for part in command):
            found.append(process)
    return found


def supervisors_of(home: Path) -> list[psutil.Process]:
    name = "spotify_pipeline.storage.embedded.supervisor"
    return [process for process in processes_of(home) if name in process.info["cmdline"]]


def end_all(home: Path) -> None:
    """Kills everything that still runs for this home after a test."""

    def nothing_left() -> bool:
        # A supervisor first, or it would start what is killed after it again.
        for process in (*supervisors_of(home), *processes_of(home)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return not processes_of(home)

    until(nothing_left)


def connect(server: EmbeddedPostgres | URL, **changes: object) -> psycopg.Connection:
    url = server.url() if isinstance(server, EmbeddedPostgres) else server
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(address, **changes, autocommit=True)


def write_rows(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")


def count_rows(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(DISTINCT n) FROM kept").fetchone()
    assert row
    return row[0]


def ordinary_user() -> tuple[pwd.struct_passwd, list[str]]:
    """An account that is not root and the command prefix that runs a program as it.

    The interpreter may live where that account cannot go, under /root for one; then it gets the
    capability to read every directory, which is not one to write.
    """
    if not ROOT:
        return pwd.getpwuid(os.geteuid()), []
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("needs setpriv to become an ordinary user")
    user = pwd.getpwnam("nobody")
    become = [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    python = str(Path(sys.executable))
    probe = [*become, python, "-c", f"import sys; sys.exit(sys.version != {sys.version!r})"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        # Without the last, access(2) drops the capability again.
        become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        become += ["--securebits=+no_setuid_fixup"]
    return user, become


def everyone_can_go(path: Path) -> bool:
    """Whether any account may enter every folder on the way."""
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)
