"""Connections to Postgres: which URLs are understood, how the engine is made, which servers serve.

No error of this module contains a URL, because a URL may contain a password.
"""

from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from spotify_pipeline.redaction import remember

OLDEST_SERVER = 15
DRIVER = "postgresql+psycopg"


class BadDatabaseUrl(ValueError):
    """The text is no URL of a Postgres database."""


class UnsupportedServer(RuntimeError):
    """The server is too old, or the database cannot hold every character."""


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
    return url.set(drivername=DRIVER)


def make_engine(
    url: str | URL, *, pool_size: int = 5, application_name: str = "spotify_pipeline"
) -> Engine:
    """A pool of psycopg 3 connections in UTC. Connects when first used.

    Parameters never appear in errors; a connection that died in the pool is replaced unnoticed.
    """
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
        connect_args={name: value for name, value in defaults.items() if name not in url.query},
    )
    event.listen(engine, "connect", _prepare_session)
    event.listen(engine, "handle_error", _hide_row)
    return engine


# Not as start-up options: poolers refuse those, and a URL may carry options of its own.
SESSION = {
    # psycopg returns timestamptz in the session's zone.
    "TimeZone": "UTC",
    # Who hangs in the middle of a transaction keeps its rows locked and everybody who wants them
    # waiting, for ever unless the server ends it. Our longest pause, days of 100 users, is seconds.
    "idle_in_transaction_session_timeout": "60s",
    # A host that vanished in the middle of one is noticed within half a minute. The server's own
    # settings are those of its kernel: two hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}


def _prepare_session(connection: Any, _record: object) -> None:
    connection.execute(
        "SELECT set_config(name, setting, false)"
        " FROM unnest(%s::text[], %s::text[]) AS s (name, setting)",
        (list(SESSION), list(SESSION.values())),
    )
    connection.commit()


def _hide_row(context: ExceptionContext) -> None:
    """Postgres quotes the refused row in its DETAIL; runs of many users keep errors for all to see.

    `diag.message_detail` of the original error still has it.
    """
    error = context.original_exception
    detail = getattr(getattr(error, "diag", None), "message_detail", None)
    if not detail or not str(getattr(error, "sqlstate", "")).startswith(("22", "23")):
        return
    for one in (error, context.sqlalchemy_exception):
        if one is not None:
            one.args = tuple(
                arg.replace(detail, "(hidden)") if isinstance(arg, str) else arg for arg in one.args
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
    """Why a server does not serve, in one sentence; None if it does."""
    if major < OLDEST_SERVER:
        return f"PostgreSQL {OLDEST_SERVER} or newer is needed; this server is {version}."
    if encoding != "UTF8":
        return (
            f"The database must have the encoding UTF8, and this one has {encoding}: "
            "create it with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
        )
    return None
