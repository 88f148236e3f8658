"""Reads users: with their sealed tokens for a sync, by selection (due ...), with their status."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    case,
    cast,
    column,
    exists,
    func,
    or_,
    select,
    table,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.due import LONGEST_WAIT
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of, from_row

ELIGIBLE = ("connected", "expiring", "suspect")
# Only the user can connect Spotify again.
ENDED = ("disconnected", "needs_reauth")
ACTIVE_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class SealedToken:
    """A sealed refresh token, and the sealed access token obtained with it."""

    client_id: str
    key_id: str
    sealed_refresh_token: bytes = field(repr=False)
    authorized_at: datetime
    expires_at: datetime
    sealed_access_token: bytes | None = field(repr=False)
    access_seconds_left: float | None


@dataclass(frozen=True, slots=True)
class User:
    """A user as a sync loads them, with the sealed tokens."""

    user_id: str
    timezone: str
    connection: str
    days_stale: bool
    plays_fetched_at: datetime | None
    tops_fetched_at: datetime | None
    # When the last succeeded request ended; now, while one is running.
    requested_at: datetime | None = None
    # Retention's cut: plays before it are refused, days that begin before it are frozen.
    plays_from: datetime | None = None
    # Their Spotify account, if it is known.
    account_id: str | None = None
    # Failed syncs since the last success.
    consecutive_failures: int = 0
    # The last sync failed.
    is_failing: bool = False
    token: SealedToken | None = None

    @property
    def heard_at(self) -> datetime | None:
        """When the user last connected or asked for a sync."""
        heard = (self.requested_at, self.token.authorized_at if self.token else None)
        return max(filter(None, heard), default=None)


def load_users(conn: Connection, user_ids: Iterable[str]) -> list[User]:
    """The users among these that exist, by user_id, with their tokens."""
    u, k, s, r = t.users, t.user_tokens, t.sync_state, t.sync_requests
    seconds_left = cast(func.extract("epoch", k.c.access_expires_at - func.now()), Double)
    requested_at = (
        select(func.max(func.coalesce(r.c.finished_at, func.now())))
        .where(r.c.user_id == u.c.user_id, r.c.status.in_(("running", "succeeded")))
        .scalar_subquery()
    )
    # Each column is named as the field of User or SealedToken that it fills.
    rows = conn.execute(
        select(
            *u.c["user_id", "timezone", "connection", "days_stale", "plays_from", "account_id"],
            *s.c["plays_fetched_at", "tops_fetched_at", "consecutive_failures"],
            s.c.last_error_code.is_not(None).label("is_failing"),
            requested_at.label("requested_at"),
            *k.c["client_id", "key_id", "sealed_refresh_token", "authorized_at", "expires_at"],
            k.c.sealed_access_token,
            seconds_left.label("access_seconds_left"),
        )
        .join_from(u, s, s.c.user_id == u.c.user_id)
        .outerjoin(k, k.c.user_id == u.c.user_id)
        .where(any_of(u.c.user_id, user_ids))
        .order_by(u.c.user_id)
    ).mappings()
    users = []
    for row in rows:
        token = None if row["client_id"] is None else from_row(SealedToken, row)
        users.append(from_row(User, {**row, "token": token}))
    return users


def last_refreshed(conn: Connection, client_id: str, most: int) -> list[str]:
    """At most `most` connected users of this developer app, the most recently refreshed first."""
    u, k = t.users, t.user_tokens
    return list(
        conn.scalars(
            select(u.c.user_id)
            .join_from(u, k, k.c.user_id == u.c.user_id)
            .where(u.c.connection.in_(("connected", "expiring")), k.c.client_id == client_id)
            .order_by(k.c.last_refreshed_at.desc().nulls_last(), u.c.user_id)
            .limit(most)
        )
    )


def save_grant(
    conn: Connection,
    user_id: str,
    used: SealedToken,
    *,
    key_id: str,
    sealed_refresh_token: bytes,
    sealed_access_token: bytes | None,
    expires_in: timedelta,
) -> bool:
    """Replace the tokens that were `used` for a refresh by what it returned.

    Without an access token the next process gets a new one. False, and nothing written, if they are
    no longer the stored ones: the user has reconnected or was forgotten meanwhile, and the response
    belongs to an older connection.
    """
    k = t.user_tokens
    saved = conn.execute(
        update(k)
        .where(is_stored(user_id, used))
        .values(
            key_id=key_id,
            sealed_refresh_token=sealed_refresh_token,
            sealed_access_token=sealed_access_token,
            access_expires_at=func.now() + expires_in if sealed_access_token else None,
            last_refreshed_at=func.now(),
            last_error_code=None,
        )
        .returning(k.c.user_id)
    )
    return saved.first() is not None


def is_stored(user_id: str, token: SealedToken) -> ColumnElement[bool]:
    """The user's row, if it still holds this refresh token (fencing)."""
    k = t.user_tokens
    return (k.c.user_id == user_id) & (k.c.sealed_refresh_token == token.sealed_refresh_token)


def is_active(now: datetime) -> ColumnElement[bool]:
    """Eligible, with a play, a new connection or a succeeded request within 7 days."""
    u, p, k, r = t.users, t.plays, t.user_tokens, t.sync_requests
    since = now - ACTIVE_FOR
    played = exists().where(p.c.user_id == u.c.user_id, p.c.source == "api", p.c.played_at >= since)
    authorized = exists().where(k.c.user_id == u.c.user_id, k.c.authorized_at >= since)
    requested = exists().where(
        r.c.user_id == u.c.user_id, r.c.status == "succeeded", r.c.finished_at >= since
    )
    return u.c.connection.in_(ELIGIBLE) & or_(played, authorized, requested)


def is_due(now: datetime) -> ColumnElement[bool]:
    """Eligible, and next_due_at has passed, or a wrong clock wrote it too far ahead."""
    u, s = t.users, t.sync_state
    next_due_at = s.c.next_due_at
    due = or_(next_due_at.is_(None), next_due_at <= now, next_due_at > now + LONGEST_WAIT)
    return u.c.connection.in_(ELIGIBLE) & exists().where(s.c.user_id == u.c.user_id, due)


def is_eligible(now: datetime) -> ColumnElement[bool]:
    """The connection can be used: plays may be fetched."""
    return t.users.c.connection.in_(ELIGIBLE)


SELECTIONS = {"active": is_active, "due": is_due, "eligible": is_eligible}


def select_users(conn: Connection, selection: str, now: datetime) -> list[str]:
    """Ids of the users of a selection (`active`, `due`, `eligible`), sorted."""
    u = t.users
    return list(
        conn.scalars(select(u.c.user_id).where(SELECTIONS[selection](now)).order_by(u.c.user_id))
    )


def count_users(conn: Connection, selection: str, now: datetime) -> int:
    """How many users the selection has."""
    users = select(func.count()).select_from(t.users).where(SELECTIONS[selection](now))
    return conn.execute(users).scalar_one()


def has_user(conn: Connection, selection: str, now: datetime) -> bool:
    """Whether the selection has a user."""
    return (
        conn.execute(select(t.users.c.user_id).where(SELECTIONS[selection](now)).limit(1)).first()
        is not None
    )


def name_and_zone(
    conn: Connection, user_id: str, *, lock: bool = False
) -> tuple[str | None, str] | None:
    """Display name and time zone; None: no such user. `lock`: until the transaction ends."""
    u = t.users
    wanted = select(u.c.display_name, u.c.timezone).where(u.c.user_id == user_id)
    row = conn.execute(wanted.with_for_update() if lock else wanted).one_or_none()
    return None if row is None else (row.display_name, row.timezone)


def stale_user_ids(conn: Connection) -> list[str]:
    """Users whose days must all be recomputed, sorted."""
    u = t.users
    return list(conn.scalars(select(u.c.user_id).where(u.c.days_stale).order_by(u.c.user_id)))


def all_user_ids(conn: Connection) -> list[str]:
    """Every user, sorted."""
    return list(conn.scalars(select(t.users.c.user_id).order_by(t.users.c.user_id)))


def update_user(
    conn: Connection, user_id: str, timezone: str | None, display_name: str | None
) -> bool | None:
    """Change the zone or the name, where given. Unlike register_user it never adds a user.

    Returns whether the user's days are stale now; None: there is no such user.
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


_sync_status = table("sync_status", column("user_id"), column("state"), schema=t.SCHEMA)
