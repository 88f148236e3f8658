"""Notifications of Postgres, which end a wait early. Nothing may depend on one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from spotify_pipeline.storage.postgres.engine import POOLED
from spotify_pipeline.storage.postgres.types import Connection, DBAPIError

# As in the SQL function notify_work().
CHANNEL = "spotify_pipeline"


@contextmanager
def listening(conn: Connection) -> Iterator[bool]:
    """LISTENs inside for new work; False where no notification can arrive.

    The connection has to be in autocommit mode. An error inside closes it.
    """
    prepared = conn.exec_driver_sql("SHOW max_prepared_transactions").scalar_one()
    # In a pooler's transaction mode the session that listens may be another client's next.
    if conn.info.get(POOLED) or prepared != "0":
        yield False
        return
    conn.exec_driver_sql(f"LISTEN {CHANNEL}")
    try:
        yield True
    except BaseException:
        conn.invalidate()
        raise
    try:
        conn.exec_driver_sql("UNLISTEN *")
    except DBAPIError:
        # Lost meanwhile.
        conn.invalidate()


def await_notification(conn: Connection, seconds: float) -> None:
    """Returns after a notification, after so many seconds, or when the connection is lost."""
    driver_connection: Any = conn.connection.driver_connection
    # The next statement reports the lost connection, as SQLAlchemy's error.
    with suppress(psycopg.OperationalError):
        for _ in driver_connection.notifies(timeout=seconds, stop_after=1):
            pass
