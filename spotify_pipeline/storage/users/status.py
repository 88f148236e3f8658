"""A user as the commands print it: connection, counts, last sync.

Registering, connecting and removing users is the SQL contract: spotify_pipeline/app.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, column, func, select, table

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of
from spotify_pipeline.storage.users.queries import ELIGIBLE

_sync_status = table("sync_status", column("user_id"), column("state"), schema=t.SCHEMA)


@dataclass(frozen=True, slots=True)
class UserStatus:
    """A user as `users list` and `users show` print it. No token, no listening."""

    user_id: str
    display_name: str | None
    timezone: str
    connection: str
    state: str
    plays: int
    days: int
    last_synced_at: datetime | None
    last_error_code: str | None
    last_error_message: str | None
    next_due_at: datetime | None
    reconnect_by: datetime | None


def user_statuses(conn: Connection, user_ids: Sequence[str] | None = None) -> list[UserStatus]:
    """These users (None: all), by user_id."""
    return list(each_status(conn, user_ids))


def each_status(conn: Connection, user_ids: Sequence[str] | None = None) -> Iterator[UserStatus]:
    """As `user_statuses`, one by one, and the driver holds the rows in less memory.

    On a connection in autocommit no transaction is open while the caller takes its time.
    """
    u, s, k, c = t.users, t.sync_state, t.user_tokens, t.listening_tallies
    statement = (
        select(
            u.c.user_id,
            u.c.display_name,
            u.c.timezone,
            u.c.connection,
            _sync_status.c.state,
            func.coalesce(c.c.plays, 0),
            func.coalesce(c.c.days, 0),
            s.c.last_synced_at,
            s.c.last_error_code,
            s.c.last_error_message,
            # Without a usable connection a user is never due.
            case((u.c.connection.in_(ELIGIBLE), s.c.next_due_at)),
            k.c.expires_at,
        )
        .join_from(u, s, s.c.user_id == u.c.user_id)
        # A user whose counters were lost, which a check reports, is listed all the same.
        .outerjoin(c, c.c.user_id == u.c.user_id)
        .join(_sync_status, _sync_status.c.user_id == u.c.user_id)
        .outerjoin(k, k.c.user_id == u.c.user_id)
        .order_by(u.c.user_id)
    )
    if user_ids is not None:
        statement = statement.where(any_of(u.c.user_id, user_ids))
    rows: Iterable[Sequence[Any]] = conn.execute(statement)
    for row in rows:
        yield UserStatus(*row)
