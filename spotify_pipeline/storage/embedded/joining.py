"""How a process joins the server of a home: the shared lock, the supervisor, the wait."""

import fcntl
import os
import select
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from spotify_pipeline.storage.embedded.home import (
    EmbeddedPostgresError,
    PostgresHome,
    RunningServer,
    try_lock,
)

# Generous: a slow disk takes its time over initdb, and recovery after a crash may be long.
TIMEOUT_S = 120.0
_POLL_S = 0.02
# How long a process that leaves waits for the server's end.
LEAVE_S = 15.0
# What Python needs to start. Secrets of the caller stay behind: the supervisor outlives it.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


def join(home: PostgresHome) -> int:
    """Takes a client's share: a descriptor that holds it until it is closed, or the process ends.

    The server accepts connections on return. Raises EmbeddedPostgresError.
    """
    home.make()
    deadline = time.monotonic() + TIMEOUT_S
    clients_fd = os.open(home.clients_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # A supervisor that is about to end holds the lock until it is gone.
        while not try_lock(clients_fd, fcntl.LOCK_SH):
            _check(deadline, home, "is still stopping")
            time.sleep(_POLL_S)
        ready_server(home)
    except BaseException:
        os.close(clients_fd)
        raise
    return clients_fd


def ready_server(home: PostgresHome) -> RunningServer:
    """Waits until the server accepts connections; starts a supervisor when there is none.

    Raises EmbeddedPostgresError.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        if not home.is_supervised():
            _start_supervisor(home, deadline)
        server = home.server()
        if server and _accepts_connections(server.port):
            return server
        _check(deadline, home, "did not become ready")
        time.sleep(_POLL_S)


def wait_if_last(home: PostgresHome) -> None:
    """Returns when the server has stopped, or at once when another client keeps it running."""
    deadline = time.monotonic() + LEAVE_S
    while home.is_supervised() and time.monotonic() < deadline:
        fd = os.open(home.clients_lock, os.O_RDWR)
        try:
            # Neither lock is to be had while the supervisor stops the server: it holds the other.
            nobody = try_lock(fd, fcntl.LOCK_EX)
            if not nobody and try_lock(fd, fcntl.LOCK_SH):
                return
        finally:
            os.close(fd)
        time.sleep(_POLL_S * 5)


def _check(deadline: float, home: PostgresHome, what: str) -> None:
    if time.monotonic() > deadline:
        raise EmbeddedPostgresError(
            f"The embedded Postgres {what} within {TIMEOUT_S:.0f} seconds; try again, "
            f"{home.log} says:\n{home.log_tail()}"
        )


def _accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _start_supervisor(home: PostgresHome, deadline: float) -> None:
    """Starts a supervisor and waits for its answer, which is empty when another was faster."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as answers:
        log_fd = _open_log(home)
        try:
            done = subprocess.run(
                # -P: the folder we are called from must not hide our modules.
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "spotify_pipeline.storage.embedded.supervisor",
                    home.home,
                ],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=log_fd,
                env=_environment(),
                cwd="/",
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(writing)
            os.close(log_fd)
        answered = select.poll()  # unlike select() it knows descriptors above 1023
        answered.register(answers, select.POLLIN)
        while not answered.poll(1000):
            _check(deadline, home, "did not become ready")
        answer = answers.read1(10_000).decode(errors="replace")
    # Killed (below 0) or another was faster (an empty answer): the caller looks again.
    if done.returncode > 0 or answer not in ("", "ready"):
        raise EmbeddedPostgresError(
            answer or f"The supervisor of the embedded Postgres did not start; {home.log} says why."
        )


def _open_log(home: PostgresHome) -> int:
    try:
        return os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"{home.log} cannot be written ({error.strerror}): "
            "was SPOTIFY_PIPELINE_HOME deleted or moved?"
        ) from None


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("PYTHON")
    }
    package_root = str(Path(__file__).parents[2])
    # A checkout that is not installed; what is installed is found anyway, and must come after the
    # standard library.
    if package_root != sysconfig.get_path("purelib"):
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, kept.get("PYTHONPATH")]))
    return kept
