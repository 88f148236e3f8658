"""The embedded Postgres as its clients see it: join, get a URL, leave.

    with start(home) as server:
        engine = make_engine(server.url())

All processes share one server per home. It starts with the first and stops about a second after
the last has left, in whatever way that happens.
"""

import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import psycopg
from psycopg import sql
from sqlalchemy import URL

from spotify_pipeline.storage.postgres_home import (
    SUPERUSER,
    EmbeddedPostgresError,
    PostgresHome,
    RunningServer,
    try_lock,
)
from spotify_pipeline.storage.postgres_server import is_postmaster

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "RunningServer",
    "database_url",
    "running_server",
    "start",
]

DEFAULT_DATABASE = "spotify_pipeline"
# Generous: a slow disk takes its time over initdb, and recovery after a crash may be long.
TIMEOUT_S = 120.0
_POLL_S = 0.02
# Serialises the making of databases between processes.
_MAKE_DATABASE_LOCK = 0x5907_1F1E
# What Python needs to start. Secrets of the caller stay behind: the supervisor outlives it.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class EmbeddedPostgres:
    """A process's share in the server of a home. Closing it, or ending, gives it back."""

    def __init__(self, home: PostgresHome, clients_fd: int) -> None:
        self._home = home
        self._clients_fd: int | None = clients_fd
        self._made: set[str] = set()

    def url(self, database: str = DEFAULT_DATABASE) -> URL:
        """The URL of a database, which is made if it is missing, closed to all but its owner.

        Raises EmbeddedPostgresError when the server does not accept connections.
        """
        if self._clients_fd is None:
            raise EmbeddedPostgresError("This share in the embedded Postgres was closed.")
        server = _ready_server(self._home, time.monotonic() + TIMEOUT_S)
        url = URL.create(
            "postgresql+psycopg",
            username=SUPERUSER,
            password=self._home.password(),
            host="127.0.0.1",
            port=server.port,
            database=database,
        )
        if database not in self._made:
            _make_database(url, database)
            self._made.add(database)
        return url

    def close(self) -> None:
        """Gives the share back. The server stops a moment later if it was the last."""
        if self._clients_fd is not None:
            # Closed, not unlocked: a forked child shares this lock, and may still need it.
            os.close(self._clients_fd)
            self._clients_fd = None

    def __enter__(self) -> "EmbeddedPostgres":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def start(home: Path) -> EmbeddedPostgres:
    """Joins the server of a home, starting it if nobody has; it accepts connections on return.

    Raises EmbeddedPostgresError, one sentence that says what to do.
    """
    files = PostgresHome(home.resolve())
    files.make()
    deadline = time.monotonic() + TIMEOUT_S
    clients_fd = os.open(files.clients_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # A supervisor that is about to end holds the lock until it is gone.
        while not try_lock(clients_fd, fcntl.LOCK_SH):
            _check(deadline, files, "is still stopping")
            time.sleep(_POLL_S)
        _ready_server(files, deadline)
    except BaseException:
        os.close(clients_fd)
        raise
    return EmbeddedPostgres(files, clients_fd)


_joined: dict[Path, EmbeddedPostgres] = {}
_joining = threading.Lock()


def database_url(home: Path, database: str = DEFAULT_DATABASE) -> URL:
    """The URL of a database of this home's server, which this process joins until it ends.

    There is nothing to clean up at exit: the kernel gives the share back. A forked child shares
    the membership of its parent. Raises EmbeddedPostgresError.
    """
    home = home.resolve()
    with _joining:
        if home not in _joined:
            _joined[home] = start(home)
        return _joined[home].url(database)


def _forget_lock() -> None:
    # A thread of the parent may have held it at the fork, and that thread is not here.
    global _joining
    _joining = threading.Lock()


os.register_at_fork(after_in_child=_forget_lock)


def running_server(home: Path) -> RunningServer | None:
    """The server of a home if it runs; None otherwise. Starts nothing and changes nothing."""
    files = PostgresHome(home.resolve())
    try:
        server = files.server()
    except PermissionError:
        return None
    return server if server and is_postmaster(server.pid, files.data) else None


def _ready_server(home: PostgresHome, deadline: float) -> RunningServer:
    """Waits until the server accepts connections; starts a supervisor when there is none."""
    while True:
        if not home.is_supervised():
            _start_supervisor(home, deadline)
        server = home.server()
        if server and _accepts_connections(server.port):
            return server
        _check(deadline, home, "did not become ready")
        time.sleep(_POLL_S)


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
                [sys.executable, "-P", "-m", "spotify_pipeline.storage.supervisor", home.home],
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
        while not select.select([answers], [], [], 1.0)[0]:
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
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, kept.get("PYTHONPATH")]))
    return kept


def _make_database(url: URL, database: str) -> None:
    """Makes a database if it is missing. By default every role could log in to it: not here."""
    name = sql.Identifier(database)
    try:
        with psycopg.connect(
            host=url.host,
            port=url.port,
            user=url.username,
            password=str(url.password),
            dbname="postgres",
            connect_timeout=30,
            autocommit=True,
        ) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [_MAKE_DATABASE_LOCK])
            known = connection.execute(
                "SELECT has_database_privilege('public', oid, 'CONNECT')"
                " FROM pg_database WHERE datname = %s",
                [database],
            ).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
            if known is None or known[0]:
                connection.execute(
                    sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name)
                )
    except psycopg.Error as error:
        raise EmbeddedPostgresError(
            f"The database {database} could not be made in the embedded Postgres: {error}"
        ) from None
