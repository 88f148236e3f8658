"""The embedded Postgres as its clients see it: join, get a URL, leave.

    with start(home) as server:
        engine = make_engine(server.url())

All processes share one server per home. It starts with the first and stops about a second after
the last has left, in whatever way that happens.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psycopg
from psycopg import sql
from sqlalchemy import URL

from spotify_pipeline.storage.embedded.home import (
    SUPERUSER,
    EmbeddedPostgresError,
    PostgresHome,
    RunningServer,
)
from spotify_pipeline.storage.embedded.joining import join, ready_server, wait_if_last
from spotify_pipeline.storage.embedded.server import is_postmaster
from spotify_pipeline.storage.postgres.dagster_database import CLOSE

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "RunningServer",
    "database_url",
    "running_server",
    "start",
]

DEFAULT_DATABASE = "spotify_pipeline"
# They come with every server; by default every role could log in to them too.
_SERVERS_OWN = ("postgres", "template1")
# What libpq takes from the environment, each as it is without. An empty value would not do.
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
    "sslcompression": "0",
    "sslsni": "1",
    "requirepeer": SUPERUSER,
}
# Serialises the making of databases between processes.
_MAKE_DATABASE_LOCK = 0x5907_1F1E


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
        with _full_disk_named(self._home):
            server = ready_server(self._home)
            url = URL.create(
                "postgresql+psycopg",
                username=SUPERUSER,
                password=self._home.password(),
                host="127.0.0.1",
                port=server.port,
                database=database,
                query=_whatever_the_environment_says(),
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
    with _full_disk_named(files):
        return EmbeddedPostgres(files, join(files))


@contextmanager
def _full_disk_named(home: PostgresHome) -> Iterator[None]:
    try:
        yield
    except EmbeddedPostgresError:
        home.refuse_full_disk()
        raise


def _whatever_the_environment_says() -> dict[str, str]:
    """Connection parameters that keep PGHOSTADDR and the like, meant for other servers, out."""
    # No parameter overrides these, or not one that Dagster's libpq knows. Children inherit this.
    for variable in ("PGSERVICE", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION"):
        os.environ.pop(variable, None)
    # No more than is needed: an older libpq does not know all of them, nor their variables.
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


def leave(home: Path) -> None:
    """Gives this process's share back and, if it was the last, waits until the server is gone.

    For commands that promise to leave nothing behind. URLs of before are dead afterwards.
    """
    with _joining:
        joined = _joined.pop(home.resolve(), None)
    if joined:
        joined.close()
        wait_if_last(PostgresHome(home.resolve()))


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


def _make_database(url: URL, database: str) -> None:
    """Makes a database if it is missing; closes it and the server's own to all but the owner."""
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
            known = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [database]
            ).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            still_open = connection.execute(
                "SELECT datname FROM pg_database WHERE datname = ANY (%s)"
                " AND has_database_privilege('public', oid, 'CONNECT, TEMPORARY')",
                [[database, *_SERVERS_OWN]],
            ).fetchall()
            for (name,) in still_open:
                connection.execute(CLOSE.format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise EmbeddedPostgresError(
            f"The database {database} could not be made in the embedded Postgres: {error}"
        ) from None
