"""How people come in and leave, and what is said about them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    Connection,
    Text,
    case,
    column,
    func,
    literal,
    select,
    table,
    update,
)

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.queries import ELIGIBLE

_sync_status = table("sync_status", column("user_id"), column("state"), schema=t.SCHEMA)


@dataclass(frozen=True, slots=True)
class UserStatus:
    """A user as `users list` and `users show` tell it. No token, no listening."""

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


def register_user(
    conn: Connection, user_id: str, timezone: str | None, display_name: str | None
) -> None:
    """Create the user or update what is given; None keeps what is known."""
    conn.execute(select(func.spotify_pipeline.register_user(user_id, timezone, display_name)))


def update_user(
    conn: Connection, user_id: str, timezone: str | None, display_name: str | None
) -> bool | None:
    """Change what is given of a user; None keeps what is known.

    Returns whether the user's days are stale now; None if there is no such user: one who was
    forgotten a moment ago does not come back by this.
    """
    u = t.users
    changed = (
        update(u)
        .where(u.c.user_id == user_id)
        .values(
            timezone=func.coalesce(timezone, u.c.timezone),
            display_name=func.coalesce(display_name, u.c.display_name),
        )
        .returning(u.c.days_stale)
    )
    stale: bool | None = conn.scalar(changed)
    return stale


def connect_user(
    conn: Connection,
    user_id: str,
    *,
    client_id: str,
    sealed_refresh_token: bytes,
    key_id: str,
    scopes: Sequence[str],
    authorized_at: datetime,
) -> None:
    """Store a connection; the user must be registered."""
    conn.execute(
        select(
            func.spotify_pipeline.connect_user(
                user_id, client_id, sealed_refresh_token, key_id, list(scopes), authorized_at
            )
        )
    )


def disconnect_user(conn: Connection, user_id: str) -> None:
    """Delete the user's token and close an open request; everything that was heard stays."""
    conn.execute(select(func.spotify_pipeline.disconnect_user(user_id)))


def forget_user(conn: Connection, user_id: str) -> None:
    """Delete the user and every row about them."""
    conn.execute(select(func.spotify_pipeline.forget_user(user_id)))


def user_statuses(conn: Connection, user_ids: Sequence[str] | None = None) -> list[UserStatus]:
    """These users (None: all), by user_id."""
    u, s, k, tally = t.users, t.sync_state, t.user_tokens, t.listening_tallies
    statement = (
        select(
            u.c.user_id,
            u.c.display_name,
            u.c.timezone,
            u.c.connection,
            _sync_status.c.state,
            func.coalesce(tally.c.plays, 0),
            func.coalesce(tally.c.days, 0),
            s.c.last_synced_at,
            s.c.last_error_code,
            s.c.last_error_message,
            # Nobody is due whom Spotify cannot be asked about.
            case((u.c.connection.in_(ELIGIBLE), s.c.next_due_at)),
            k.c.expires_at,
        )
        .join_from(u, s, s.c.user_id == u.c.user_id)
        # Who lost it, as a check tells, must not be lost here.
        .outerjoin(tally, tally.c.user_id == u.c.user_id)
        .join(_sync_status, _sync_status.c.user_id == u.c.user_id)
        .outerjoin(k, k.c.user_id == u.c.user_id)
        .order_by(u.c.user_id)
    )
    if user_ids is not None:
        # An array: a statement has room for 65,535 parameters, and a check may count more users.
        statement = statement.where(u.c.user_id == func.any(literal(list(user_ids), ARRAY(Text))))
    rows: Iterable[Sequence[Any]] = conn.execute(statement)
    return [UserStatus(*row) for row in rows]
