"""Connections to Postgres: accepted URLs, the engine with its session settings, supported servers.

No error of this module contains a URL, because a URL may contain a password.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import Loader
from psycopg.pq import Format
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from spotify_pipeline.errors import UsageError
from spotify_pipeline.redaction import remember

OLDEST_SERVER = 15
DRIVER = "postgresql+psycopg"


class BadDatabaseUrl(UsageError):
    """The text is no URL of a Postgres database."""


class UnsupportedServer(UsageError):
    """The server is too old, or set up so that our rules or characters would be lost."""


def normalise_url(text: str | URL) -> URL:
    """Understands postgres://, postgresql:// and any driver form; raises BadDatabaseUrl."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise BadDatabaseUrl(
            "The database URL is not understood. "
            "It has to look like postgresql://user:password@host:5432/database."
        ) from None
    if url.drivername.partition("+")[0] not in ("postgres", "postgresql"):
        raise BadDatabaseUrl(
            "The database URL is not one of Postgres: it has to start with postgresql://."
        )
    if url.host and unquote(url.host).startswith("/"):
        # libpq's other way to write the directory of a socket, which SQLAlchemy takes for a name.
        url = url.update_query_dict({"host": unquote(url.host)})
        if url.port:
            url = url.update_query_dict({"port": str(url.port)})
        url = url._replace(host=None, port=None)
    return url.set(drivername=DRIVER)


def make_engine(
    url: str | URL,
    *,
    pool_size: int = 5,
    application_name: str = "spotify_pipeline",
    settings: Mapping[str, str] | None = None,
) -> Engine:
    """A pool of psycopg 3 connections with the session settings SESSION. Connects when first used.

    `settings` replaces SESSION. Parameters never appear in errors; a connection that died in the
    pool is replaced unnoticed. Works through a connection pooler, in transaction mode too.
    """
    settings = SESSION if settings is None else settings
    url = normalise_url(url)
    if url.password:
        remember(str(url.password))
    # A host that vanished is noticed within a minute instead of the kernel's two hours.
    defaults: dict[str, Any] = {
        "application_name": application_name,
        "client_encoding": "utf8",
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    engine = create_engine(
        url,
        pool_size=pool_size,
        pool_pre_ping=True,
        hide_parameters=True,
        # Said in every BEGIN: after a session in autocommit SQLAlchemy would otherwise go back to
        # the database's default, and under REPEATABLE READ concurrent syncs fail with 40001.
        isolation_level="READ COMMITTED",
        use_native_hstore=False,
        connect_args={name: value for name, value in defaults.items() if name not in url.query},
    )

    def prepare_session(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[POOLED] = _prepare_session(connection, settings)

    def prepare_transaction(connection: Connection) -> None:
        driver_connection: Any = connection.connection.driver_connection
        if connection.info.get(POOLED) and not driver_connection.autocommit:
            apply_settings(driver_connection, settings, only_this_transaction=True)

    # Inserted first: SQLAlchemy's own queries on a new connection need the settings too.
    event.listen(engine, "connect", prepare_session, insert=True)
    event.listen(engine, "begin", prepare_transaction)
    event.listen(engine, "handle_error", _hide_row)
    return engine


# Session settings that a server, a database, a role or PGDATESTYLE may have changed. Not start-up
# options: poolers refuse those, and a URL may have its own.
PORTABLE = {
    # psycopg returns timestamptz in the session's zone, and reads no other styles than these.
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    # Fewer digits would store other numbers than were computed.
    "extra_float_digits": "1",
    # Off: every NULL in an array parameter arrives as the text "NULL".
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "restrict_nonsystem_relation_kind": "",
    "default_transaction_isolation": "read committed",
    # A standby and a server that is read-only for all refuse writes whatever this says.
    "default_transaction_read_only": "off",
    # Limits meant for interactive sessions: a migration or the days of 100 users may take longer.
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
}
SESSION = {
    **PORTABLE,
    # No table or function of another schema is found in place of ours.
    "search_path": "spotify_pipeline, pg_temp",
    # An app that locked a user and does not commit shall hold up no command for ever.
    "lock_timeout": "30s",
    # A session that hangs in a transaction keeps its rows locked until the server ends it. Our
    # longest pause, computing the days of 100 users, is seconds.
    "idle_in_transaction_session_timeout": "60s",
    # A host that vanished in the middle of one is noticed within half a minute. The server's own
    # settings are those of its kernel: two hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}
# PgBouncer keeps these per client and not per server session.
_KEPT_BY_POOLERS = ("TimeZone", "DateStyle", "standard_conforming_strings")
# Of no effect once a transaction has begun, and there is no other moment in a pooler's session.
_TRANSACTION_MODES = {
    name: PORTABLE[name]
    for name in ("default_transaction_isolation", "default_transaction_read_only")
}
POOLED = "spotify_pipeline.pooled"

# Leaves out a setting that this version of Postgres does not have. Names are qualified, here and in
# _prepare_session: until then a schema of an app may come first in search_path.
_APPLY = (
    "SELECT pg_catalog.set_config(name, setting, %s)"
    " FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.text[]),"
    " pg_catalog.unnest(%s::pg_catalog.text[])) AS s (name, setting)"
    " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
)


def apply_settings(
    connection: Any, settings: Mapping[str, str], *, only_this_transaction: bool = False
) -> None:
    """Sets session settings on a connection of psycopg or psycopg2; does not commit."""
    with connection.cursor() as cursor:
        cursor.execute(_APPLY, (only_this_transaction, list(settings), list(settings.values())))


class _FiniteLoader(Loader):
    """Reads instants that Python has none for, such as infinity, as far away.

    Only a manual UPDATE can store one. Without this, one such row fails the whole result.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._load = _INSTANTS(oid, context).load

    def load(self, data: Any) -> Any:
        """The instant, or one before or after all others."""
        try:
            return self._load(data)
        except psycopg.DataError:
            text = bytes(data)
            return _EARLIEST if text.startswith(b"-") or text.endswith(b"BC") else _LATEST


_loader = psycopg.adapters.get_loader(psycopg.adapters.types["timestamptz"].oid, Format.TEXT)
assert _loader is not None
_INSTANTS = _loader
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9990, 1, 1, tzinfo=UTC)


def _prepare_session(connection: Any, settings: Mapping[str, str]) -> bool:
    """Applies the settings to a new connection; whether a pooler stands before the server.

    In a pooler's transaction mode each transaction may have another server session, which other
    clients use too: nothing may be left in it, and prepared statements are not found again.
    """
    pid, role, *modes = connection.execute(
        "SELECT pg_catalog.pg_backend_pid(), "
        + ", ".join(
            f"pg_catalog.current_setting('{name}')"
            for name in ("session_replication_role", *_TRANSACTION_MODES)
        )
    ).fetchone()
    if role == "replica":
        raise UnsupportedServer(
            "session_replication_role is 'replica' here, so no trigger and no foreign key works, "
            "and nothing was done: run ALTER DATABASE … RESET session_replication_role, or ALTER "
            "ROLE … RESET session_replication_role, where it was set."
        )
    connection.adapters.register_loader("timestamptz", _FiniteLoader)
    # A pooler reports another backend pid than the server.
    pooled = bool(pid != connection.info.backend_pid)
    if pooled:
        connection.prepare_threshold = None
        for (name, wanted), found in zip(_TRANSACTION_MODES.items(), modes, strict=True):
            if settings.get(name) == wanted != found:
                raise UnsupportedServer(
                    f"Behind a connection pooler {name} has to be '{wanted}', and it is '{found}': "
                    f"run ALTER ROLE … SET {name} = '{wanted}' for the pipeline's user, or connect "
                    "without the pooler."
                )
        settings = {name: settings[name] for name in _KEPT_BY_POOLERS if name in settings}
    apply_settings(connection, settings)
    connection.commit()
    return pooled


def _hide_row(context: ExceptionContext) -> None:
    """Hide the row that Postgres quotes in DETAIL: all users of Dagster's UI can read its log.

    `diag.message_detail` of the original error still has it.
    """
    error = context.original_exception
    detail = getattr(getattr(error, "diag", None), "message_detail", None)
    if not detail or not str(getattr(error, "sqlstate", "")).startswith(("22", "23")):
        return
    for exception in (error, context.sqlalchemy_exception):
        if exception is not None:
            exception.args = tuple(
                arg.replace(detail, "(hidden)") if isinstance(arg, str) else arg
                for arg in exception.args
            )


def server_version(connection: Connection) -> str:
    """The server's version as it calls itself, such as '15.9'."""
    return str(connection.exec_driver_sql("SHOW server_version").scalar_one()).split()[0]


def check_server(connection: Connection) -> None:
    """Raises UnsupportedServer below PostgreSQL 15 and for databases that are not UTF-8."""
    number = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    encoding = str(connection.exec_driver_sql("SHOW server_encoding").scalar_one())
    if complaint := server_complaint(server_version(connection), number // 10_000, encoding):
        raise UnsupportedServer(complaint)


def server_complaint(version: str, major: int, encoding: str) -> str | None:
    """Why a server is not supported, in one sentence; None if it is."""
    if major < OLDEST_SERVER:
        return f"PostgreSQL {OLDEST_SERVER} or newer is needed; this server is {version}."
    if encoding != "UTF8":
        return (
            f"The database must have the encoding UTF8, and this one has {encoding}: "
            "create it with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
        )
    return None


def database_now(conn: Connection) -> datetime:
    """The database's clock."""
    now: datetime = conn.execute(select(func.now())).scalar_one()
    return now


@contextmanager
def hash_joins(conn: Connection) -> Iterator[None]:
    """Joins of the statements inside read each table once, whatever Postgres expects to find there.

    Where one user has imported, the statistics say that others have nothing; Postgres then chose
    nested loops, in which 100,000 rows read 100,000 rows each. For statements over all rows of
    one user. An error ends the transaction, and so the setting.
    """
    conn.execute(select(func.set_config("enable_nestloop", "off", True)))
    yield
    conn.execute(select(func.set_config("enable_nestloop", "on", True)))
