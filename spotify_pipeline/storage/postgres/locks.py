"""Locks rows of several users without waiting for ever for one of them.

Another session may keep a user's rows locked, as an app does that calls forget_user() and does not
commit. Such a user is left out, so that the others of the run go on. The order of all locks is
documented in storage/sql/users.sql.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of

# Longer than any transaction of a well-behaved app, and than a sync's write of one user.
WAIT = "2s"

Rows = TypeVar("Rows")


def lock_or_skip(
    conn: Connection, lock: Callable[[bool], Rows], *, waits: int = 1
) -> tuple[Rows, bool]:
    """`lock(False)`, which waits in order, or after WAIT `lock(True)`, which skips locked rows.

    Waits so many times WAIT. Returns its rows, and whether locked ones were skipped. Two round
    trips more than the locks themselves.
    """
    for _ in range(waits):
        before = conn.exec_driver_sql(
            "SELECT current_setting('lock_timeout'); SAVEPOINT locking;"
            f" SET LOCAL lock_timeout = '{WAIT}'"
        ).scalar_one()
        try:
            rows = lock(False)
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise
            # Releases what the first try has locked: rows that are locked later stand before them
            # in the order (deadlock). Also restores the setting.
            conn.exec_driver_sql("ROLLBACK TO SAVEPOINT locking; RELEASE SAVEPOINT locking")
        else:
            conn.exec_driver_sql(f"RELEASE SAVEPOINT locking; SET LOCAL lock_timeout = '{before}'")
            return rows, False
    return lock(True), True


def limit_waits(conn: Connection) -> None:
    """A lock that cannot be had within WAIT raises OperationalError, until the transaction ends."""
    conn.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT}'")


def is_lock_timeout(error: Exception) -> bool:
    """Whether a lock could not be had in time."""
    return isinstance(getattr(error, "orig", None), LockNotAvailable)


def lock_existence(conn: Connection, user_ids: Iterable[str]) -> set[str]:
    """Keeps these users from being forgotten until the transaction ends; returns those who exist.

    Leaves out those whom another session keeps locked.
    """
    u = t.users
    existing = select(u.c.user_id).where(any_of(u.c.user_id, user_ids)).order_by(u.c.user_id)

    def lock(skip_locked: bool) -> set[str]:
        locking = existing.with_for_update(read=True, key_share=True, skip_locked=skip_locked)
        return set(conn.scalars(locking))

    found, _ = lock_or_skip(conn, lock)
    return found
