"""The embedded Postgres as its clients see it: join, get a URL, leave.

    with start(home) as server:
        engine = make_engine(server.url())

All processes share one server per home. It starts with the first and stops about a second after
the last has left, however that one ended.
"""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spotify_pipeline.storage.embedded.home import (
    SUPERUSER,
    EmbeddedPostgresError,
    PostgresHome,
    try_lock,
)
from spotify_pipeline.storage.embedded.postmaster import Postmaster, running_postmaster

# Imported where a URL is made: `dev`, which only joins, would keep 30 MB of them.
if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "database_url",
    "join",
    "leave",
    "running_server",
    "start",
]

DEFAULT_DATABASE = "spotify_pipeline"
# Every server has these; by default every role could log in to them too.
_DEFAULT_DATABASES = ("postgres", "template1")
# Advisory lock: serialises the creation of databases between processes.
_MAKE_DATABASE_LOCK = 0x5907_1F1E

# Initdb on a slow disk and recovery after a crash may take long.
TIMEOUT_S = 120.0
# How long a process that leaves waits for the server's end.
LEAVE_S = 15.0
_POLL_S = 0.02
# The variables that Python needs to start. No secrets: the supervisor outlives its caller.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")

# What libpq takes from the environment, with the value it has without. It takes an empty value for
# one too.
_PARAMETERS = {
    "hostaddr": "127.0.0.1",
    "options": "-c client_min_messages=notice",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "channel_binding": "prefer",
    "gssencmode": "disable",
    "require_auth": "scram-sha-256",
    "sslnegotiation": "postgres",
    "target_session_attrs": "any",
    "load_balance_hosts": "disable",
    "ssl_min_protocol_version": "TLSv1.2",
    "ssl_max_protocol_version": "TLSv1.3",
    "sslcertmode": "allow",
    "requirepeer": SUPERUSER,
}


class EmbeddedPostgres:
    """A process's membership in the server of a home; ends when closed or with the process."""

    def __init__(self, home: PostgresHome, clients_fd: int) -> None:
        self._home = home
        self._clients_fd: int | None = clients_fd
        self._made: set[str] = set()

    def url(self, database: str = DEFAULT_DATABASE) -> "URL":
        """The URL of a database, which is made if it is missing, closed to all but its owner.

        Raises EmbeddedPostgresError when the server does not accept connections.
        """
        from sqlalchemy import URL

        if self._clients_fd is None:
            raise EmbeddedPostgresError("This share in the embedded Postgres was closed.")
        with _full_disk_named(self._home):
            server = _ready_server(self._home)
            url = URL.create(
                "postgresql+psycopg",
                username=SUPERUSER,
                password=self._home.password(),
                host="127.0.0.1",
                port=server.port,
                database=database,
                query=_neutral_parameters(),
            )
            if database not in self._made:
                _make_database(url, database)
                self._made.add(database)
        return url

    def close(self) -> None:
        """Leaves. The server stops a moment later if this was the last client."""
        if self._clients_fd is not None:
            # Closed, not unlocked: a forked child shares this lock and may still need it.
            os.close(self._clients_fd)
            self._clients_fd = None

    def __enter__(self) -> "EmbeddedPostgres":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(home: Path) -> EmbeddedPostgres:
    """Joins the server of a home, starting it if necessary; it accepts connections on return.

    Raises EmbeddedPostgresError, one sentence that says what to do.
    """
    files = PostgresHome(home.resolve())
    with _full_disk_named(files):
        files.make()
        deadline = time.monotonic() + TIMEOUT_S
        clients_fd = os.open(files.clients_lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # A supervisor that is about to end holds the lock until it has ended.
            while not try_lock(clients_fd, fcntl.LOCK_SH):
                _check_deadline(deadline, files, "is still stopping")
                time.sleep(_POLL_S)
            _ready_server(files)
        except BaseException:
            os.close(clients_fd)
            raise
        return EmbeddedPostgres(files, clients_fd)


_joined: dict[Path, EmbeddedPostgres] = {}
_joining = threading.Lock()


def join(home: Path) -> EmbeddedPostgres:
    """Joins the server of this home until this process ends.

    Needs no clean-up at exit: the kernel releases the lock. A forked child shares the membership
    of its parent. Raises EmbeddedPostgresError.
    """
    home = home.resolve()
    with _joining:
        if home not in _joined:
            _joined[home] = start(home)
        return _joined[home]


def database_url(home: Path, database: str = DEFAULT_DATABASE) -> "URL":
    """The URL of a database of this home's server, which this process joins until it ends.

    Raises EmbeddedPostgresError.
    """
    return join(home).url(database)


def leave(home: Path) -> None:
    """Leaves the server that was joined and, if this was the last client, waits for its end.

    For commands that promise to leave nothing behind. Earlier URLs are invalid afterwards.
    """
    files = PostgresHome(home.resolve())
    with _joining:
        joined = _joined.pop(files.home, None)
    if joined is None:
        return
    joined.close()
    deadline = time.monotonic() + LEAVE_S
    while files.is_supervised() and time.monotonic() < deadline:
        fd = os.open(files.clients_lock, os.O_RDWR)
        try:
            # Neither lock can be had while the supervisor stops the server: it holds the other.
            if not try_lock(fd, fcntl.LOCK_EX) and try_lock(fd, fcntl.LOCK_SH):
                return  # another client keeps the server running
        finally:
            os.close(fd)
        time.sleep(_POLL_S * 5)


def _replace_lock() -> None:
    # A thread of the parent may have held it at the fork, and that thread is not in the child.
    global _joining
    _joining = threading.Lock()


os.register_at_fork(after_in_child=_replace_lock)


def running_server(home: Path) -> Postmaster | None:
    """The server of a home if it accepts connections. Starts nothing and changes nothing."""
    try:
        server = running_postmaster(PostgresHome(home.resolve()))
        return server if server and server.is_ready() else None
    except PermissionError:
        return None  # another user's


# -- waiting for the server ----------------------------------------------------------------------


def _ready_server(home: PostgresHome) -> Postmaster:
    """Waits until the server accepts connections; starts a supervisor if none runs.

    Raises EmbeddedPostgresError.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        if not home.is_supervised():
            _start_supervisor(home, deadline)
        if server := running_server(home.home):
            return server
        _check_deadline(deadline, home, "did not become ready")
        time.sleep(_POLL_S)


def _check_deadline(deadline: float, home: PostgresHome, what: str) -> None:
    if time.monotonic() > deadline:
        raise EmbeddedPostgresError(
            f"The embedded Postgres {what} within {TIMEOUT_S:.0f} seconds; try again, "
            f"{home.log} says:\n{home.log_tail()}"
        )


def _start_supervisor(home: PostgresHome, deadline: float) -> None:
    """Starts a supervisor and waits for its answer, which is empty when another was faster."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("PYTHON")
    }
    # -P: modules in the folder that the caller runs in must not hide ours.
    module = ["-P", "-m", "spotify_pipeline.storage.embedded.supervisor"]
    try:
        with home.open_log() as log:
            # The supervisor forks away from this child, and holds its output open until it answers.
            done = subprocess.run(
                [sys.executable, *module, home.home],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd="/",
                start_new_session=True,
                check=False,
                timeout=max(0.0, deadline - time.monotonic()),
            )
    except subprocess.TimeoutExpired:
        return  # the caller's deadline has passed, too
    answer = done.stdout.decode(errors="replace")
    # Killed (below 0) or another was faster (an empty answer): the caller looks again.
    if done.returncode > 0 or answer not in ("", "ready"):
        raise EmbeddedPostgresError(
            answer or f"The supervisor of the embedded Postgres did not start; {home.log} says why."
        )


@contextmanager
def _full_disk_named(home: PostgresHome) -> Iterator[None]:
    try:
        yield
    except EmbeddedPostgresError:
        home.refuse_full_disk()
        raise


# -- databases -----------------------------------------------------------------------------------


def _neutral_parameters() -> dict[str, str]:
    """Connection parameters that override PGHOSTADDR and the like, meant for other servers."""
    import psycopg

    # No parameter overrides these, or not one that Dagster's libpq knows. Children inherit this.
    for variable in ("PGSERVICE", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION"):
        os.environ.pop(variable, None)
    # Only those needed: an older libpq does not know all of them, nor their variables.
    variables = {
        option.keyword.decode(): (option.envvar or b"").decode()
        for option in psycopg.pq.Conninfo.get_defaults()
    }
    needed = {
        name: value
        for name, value in _PARAMETERS.items()
        if os.environ.get(variables.get(name) or "")
    }
    # The server has no TLS and needs none on loopback.
    return {"sslmode": "disable", **needed}


def _make_database(url: "URL", database: str) -> None:
    """Makes a database if it is missing; closes it and the default ones to all but the owner."""
    import psycopg
    from psycopg import sql

    from spotify_pipeline.storage.postgres.database import CLOSE

    try:
        with psycopg.connect(
            host=url.host,
            port=url.port,
            user=url.username,
            password=str(url.password),
            dbname="postgres",
            autocommit=True,
            **{"connect_timeout": "30", **url.query},  # type: ignore[arg-type]
        ) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [_MAKE_DATABASE_LOCK])
            exists = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [database]
            ).fetchone()
            if exists is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            open_to_public = connection.execute(
                "SELECT datname FROM pg_database WHERE datname = ANY (%s)"
                " AND has_database_privilege('public', oid, 'CONNECT, TEMPORARY')",
                [[database, *_DEFAULT_DATABASES]],
            ).fetchall()
            for (name,) in open_to_public:
                connection.execute(CLOSE.format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise EmbeddedPostgresError(
            f"The database {database} could not be made in the embedded Postgres: {error}"
        ) from None
