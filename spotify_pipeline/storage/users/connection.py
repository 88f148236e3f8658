"""Connections: their states, the outage circuit breaker, and the Spotify account of a user.

A connection is connected, expiring, needs_reauth, or suspect in an outage: Spotify once answered
`invalid_grant` for masses of valid tokens, and a service that believed it deleted them. So each
refusal is compared with those of other users in the last hour: when many are refused, all of them
become suspect and are probed once an hour, and no token is deleted. All instants are by the
database's clock.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, and_, case, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.app import connect_user
from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.model import SCOPES, Profile
from spotify_pipeline.domain.sealing import Keyring, seal
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.locks import lock_or_skip
from spotify_pipeline.storage.users.queries import ELIGIBLE, SealedToken, is_stored

# An outage: at least so many users refused within the hour, and more than half of those refreshed.
OUTAGE_USERS = 3
OUTAGE_WINDOW = timedelta(minutes=60)
WARN_AHEAD = timedelta(days=30)
KEEP_AFTER_EXPIRY = timedelta(days=30)
# How many other processes or threads that evaluate refusals are waited for.
REFUSALS_AHEAD = 5

OUTAGE = (
    "Spotify refuses many connections at once, so this is not believed. "
    "It is tried again within the hour; no user has to reconnect."
)


def store_connection(
    conn: Connection,
    keyring: Keyring,
    user_id: str,
    refresh_token: str,
    *,
    client_id: str,
    scopes: Sequence[str] = SCOPES,
    authorized_at: datetime | None = None,
) -> None:
    """Seal the token for the current key and connect a registered user with it.

    `authorized_at` None: now by the database's clock, because this machine's may be wrong.
    """
    connect_user(
        conn,
        user_id,
        client_id=client_id,
        sealed_refresh_token=seal(keyring.public_key(keyring.current_id), user_id, refresh_token),
        key_id=keyring.current_id,
        scopes=scopes,
        authorized_at=authorized_at or conn.execute(select(func.now())).scalar_one(),
    )


def refresh_connection_states(conn: Connection, user_ids: Sequence[str] | None = None) -> None:
    """Update the states that change by time alone, for these users (None: all).

    30 days before its end a connection is `expiring`; past it the user has to reconnect.
    """
    u, k = t.users, t.user_tokens
    state = case(
        (k.c.expires_at <= func.now(), "needs_reauth"),
        (and_(u.c.connection != "suspect", k.c.expires_at <= func.now() + WARN_AHEAD), "expiring"),
        (u.c.connection == "expiring", "connected"),
        else_=u.c.connection,
    )
    changing = (
        select(u.c.user_id, state.label("state"))
        .join_from(u, k, k.c.user_id == u.c.user_id)
        .where(u.c.connection.in_(ELIGIBLE), u.c.connection != state)
        .order_by(u.c.user_id)
        # Users whom another session keeps locked are left to their next sync.
        .with_for_update(of=u, key_share=True, skip_locked=True)
    )
    if user_ids is not None:
        changing = changing.where(u.c.user_id.in_(user_ids))
    states = {row.user_id: row.state for row in conn.execute(changing)}
    if not states:
        return
    free = _lock_requests(conn, states.keys(), skip=True)
    for new_state in sorted({states[user_id] for user_id in free}):
        due = [user_id for user_id in free if states[user_id] == new_state]
        conn.execute(update(u).where(u.c.user_id.in_(due)).values(connection=new_state))


def record_refusal(
    conn: Connection, user_id: str, refused: SealedToken
) -> Literal["needs_reauth", "suspect"] | None:
    """Record that Spotify refused this refresh token; return the user's new state.

    None, and nothing written, when a newer token has replaced it meanwhile, or another session
    keeps the user or the evaluation of refusals locked. In an outage every user refused within the
    hour becomes suspect, including those who became needs_reauth earlier in that hour.
    """
    k, u = t.user_tokens, t.users
    # One process at a time: of three that record refusals at once, each must see the others' rows.
    if not _lock_refusals(conn):
        return None
    others = _refused_users(conn)
    locked = _lock(conn, {user_id, *others})
    if user_id not in locked:
        return None
    others &= locked
    was = conn.scalar(select(u.c.connection).where(u.c.user_id == user_id))
    marked = conn.execute(
        update(k)
        .where(is_stored(user_id, refused))
        .values(
            last_refreshed_at=func.now(),
            last_error_code=ErrorCode.RECONNECT,
            sealed_access_token=None,
            access_expires_at=None,
        )
        .returning(k.c.user_id)
    ).first()
    if marked is None:
        return None
    if _is_outage(conn, of_suspect=was == "suspect"):
        _suspect(conn, {user_id, *others})
        return "suspect"
    conn.execute(update(u).where(u.c.user_id == user_id).values(connection="needs_reauth"))
    return "needs_reauth"


def reclassify_as_suspect(conn: Connection, user_ids: Collection[str]) -> set[str]:
    """Correct users whom an outage has made suspect after their sync failed with RECONNECT.

    The outage check ran before these users' sync state was visible (race). Returns those corrected.
    """
    # After a lock timeout this corrects only the suspects visible now; probes reach the rest.
    _lock_refusals(conn)
    u = t.users
    suspects = set(
        conn.scalars(
            select(u.c.user_id).where(u.c.user_id.in_(user_ids), u.c.connection == "suspect")
        )
    )
    _replace_reconnect_errors(conn, _lock(conn, suspects))
    return suspects


def claim_suspect_probe(conn: Connection, user_id: str) -> bool:
    """Whether this process may probe a suspect user now; True for at most one process an hour."""
    k = t.user_tokens
    claimed = conn.execute(
        update(k)
        .where(
            k.c.user_id == user_id,
            or_(
                k.c.last_refreshed_at.is_(None),
                k.c.last_refreshed_at <= func.now() - OUTAGE_WINDOW,
                # A wrong clock wrote it, and would keep the user suspect until then.
                k.c.last_refreshed_at > func.clock_timestamp(),
            ),
        )
        # Until Spotify responds it counts neither as a refusal nor as a success.
        .values(last_refreshed_at=func.now(), last_error_code=ErrorCode.SPOTIFY_UNAVAILABLE)
        .returning(k.c.user_id)
    )
    return claimed.first() is not None


def clear_suspect(conn: Connection, user_id: str) -> None:
    """End the suspicion of a user whose token Spotify accepted.

    A user whom another session keeps locked stays suspect until the next probe, because the
    transaction must not fail: it stores the new token, which exists nowhere else.
    """
    u = t.users
    if not _lock(conn, [user_id]):
        return
    conn.execute(
        update(u)
        .where(u.c.user_id == user_id, u.c.connection == "suspect")
        .values(connection="connected")
    )
    refresh_connection_states(conn, [user_id])


def reset_connection(conn: Connection, user_id: str) -> str | None:
    """Clear this user's failures, so that a stored token is tried again; returns the connection.

    A user without a token, or with an expired one, does not become connected. None: no such user.
    """
    u, k, s = t.users, t.user_tokens, t.sync_state
    _lock(conn, [user_id])
    conn.execute(
        update(s)
        .where(s.c.user_id == user_id)
        .values(
            consecutive_failures=0,
            last_error_code=None,
            last_error_message=None,
            next_due_at=None,
            recorded_at=func.now(),
        )
    )
    # As if never refreshed: counts neither as refused nor as accepted, and may be probed at once.
    kept = conn.execute(
        update(k)
        .where(k.c.user_id == user_id)
        .values(last_refreshed_at=None, last_error_code=None)
        .returning(k.c.user_id)
    ).first()
    if kept:
        conn.execute(update(u).where(u.c.user_id == user_id).values(connection="connected"))
        refresh_connection_states(conn, [user_id])
    connection: str | None = conn.scalar(select(u.c.connection).where(u.c.user_id == user_id))
    return connection


def drop_dead_tokens(conn: Connection) -> int:
    """Delete tokens that expired more than 30 days ago; return how many. Plays stay."""
    k, u = t.user_tokens, t.users
    dead = k.c.expires_at < func.now() - KEEP_AFTER_EXPIRY
    # Locks users first, as connect_user does: a user who reconnects meanwhile keeps the new token.
    locked = _lock(conn, conn.scalars(select(k.c.user_id).where(dead)).all())
    dead &= k.c.user_id.in_(locked)
    gone = conn.scalars(k.delete().where(dead).returning(k.c.user_id)).all()
    conn.execute(update(u).where(u.c.user_id.in_(gone)).values(connection="disconnected"))
    return len(gone)


class AnotherAccount(Exception):
    """The user is connected to another Spotify account than this one."""


class AccountTaken(Exception):
    """The Spotify account belongs to another user, `owner`."""

    def __init__(self, owner: str) -> None:
        super().__init__("the account belongs to another user")
        self.owner = owner


def owner_of(conn: Connection, profile: Profile) -> str | None:
    """The user with this Spotify account, under either of its ids; None: no user has it."""
    u = t.users
    owner: str | None = conn.scalar(
        select(u.c.user_id)
        .where(u.c.account_id.in_(profile.ids))
        .order_by(u.c.account_id != profile.account)
        .limit(1)
    )
    return owner


def refuse_account(conn: Connection, user_id: str, token: SealedToken) -> None:
    """Mark the user needs_reauth, because this token, if still stored, is of another account."""
    u = t.users
    stored = select(t.user_tokens.c.user_id).where(is_stored(user_id, token)).exists()
    conn.execute(update(u).where(u.c.user_id == user_id, stored).values(connection="needs_reauth"))


def link_account(conn: Connection, user_id: str, profile: Profile) -> None:
    """Store the Spotify account of a registered user. Raises AnotherAccount, AccountTaken.

    Of two transactions that link one account at once, the second raises IntegrityError.
    """
    u = t.users
    mine = select(u.c.account_id).where(u.c.user_id == user_id)
    # A known account never changes, so it is read without a lock, for which an app that requests a
    # sync and does not commit would make us wait.
    if conn.scalar(mine) == profile.account:
        return
    known = conn.scalar(mine.with_for_update())
    if known == profile.account:
        return
    if known is not None and known not in profile.ids:
        raise AnotherAccount
    owner = owner_of(conn, profile)
    if owner not in (None, user_id):
        raise AccountTaken(owner)
    conn.execute(update(u).where(u.c.user_id == user_id).values(account_id=profile.account))


def learn_account(conn: Connection, user_id: str, profile: Profile) -> bool:
    """Store the account of a token if the user's is not known yet; False: the user has another one.

    An account that another user has, or gets at this moment, is not stored.
    """
    try:
        with conn.begin_nested():
            link_account(conn, user_id, profile)
    except AnotherAccount:
        return False
    except (AccountTaken, IntegrityError):
        pass
    return True


def _lock_refusals(conn: Connection) -> bool:
    """Serialize the evaluation of refusals; False: another process holds the lock for too long.

    Not an advisory lock: every login of the database may take one and keep it.
    """

    def lock(skip: bool) -> bool:
        row = select(t.settings.c.singleton).with_for_update(key_share=True, skip_locked=skip)
        return conn.scalar(row) is not None

    # Each process ahead may itself wait for a locked user.
    locked, skipped = lock_or_skip(conn, lock, waits=REFUSALS_AHEAD)
    return locked or not skipped


def _lock(conn: Connection, user_ids: Collection[str]) -> set[str]:
    """Lock these users, their states and request locks in the documented order.

    Returns the locked users, without those whom another session keeps locked.
    """
    u, s = t.users, t.sync_state
    users = select(u.c.user_id).where(u.c.user_id.in_(user_ids)).order_by(u.c.user_id)
    states = select(s.c.user_id).order_by(s.c.user_id)

    def lock(skip: bool) -> set[str]:
        found = conn.scalars(users.with_for_update(key_share=True, skip_locked=skip)).all()
        of_found = states.where(s.c.user_id.in_(found))
        locked = set(conn.scalars(of_found.with_for_update(skip_locked=skip)))
        return _lock_requests(conn, locked, skip=skip)

    locked, _ = lock_or_skip(conn, lock)
    return locked


def _lock_requests(conn: Connection, user_ids: Collection[str], *, skip: bool) -> set[str]:
    """Lock the request_locks of these locked users; return the users without those skipped.

    The trigger note_connection locks them too, without a timeout, and an app that requests a sync
    and does not commit holds one. After a restore without triggers a user may have none.
    """
    k = t.request_locks
    rows = select(k.c.user_id).where(k.c.user_id.in_(user_ids)).order_by(k.c.user_id)
    locked = set(conn.scalars(rows.with_for_update(key_share=True, skip_locked=skip)))
    return set(user_ids) - (set(conn.scalars(rows)) - locked)


def _refused_lately() -> ColumnElement[bool]:
    k = t.user_tokens
    return and_(
        k.c.last_refreshed_at > func.now() - OUTAGE_WINDOW,
        k.c.last_error_code == ErrorCode.RECONNECT,
    )


def _refused_users(conn: Connection) -> set[str]:
    """Users refused within the hour who are not suspect yet."""
    u, k = t.users, t.user_tokens
    return set(
        conn.scalars(
            select(u.c.user_id)
            .join_from(u, k, k.c.user_id == u.c.user_id)
            .where(_refused_lately(), u.c.connection.in_(("needs_reauth", "connected", "expiring")))
        )
    )


def _is_outage(conn: Connection, *, of_suspect: bool) -> bool:
    """Whether the refusals of the last hour are an outage of Spotify.

    For a suspect, OUTAGE_USERS does not apply: its token is dead only if most others are accepted.
    Tries without an outcome, such as a 5xx, do not count.
    """
    k = t.user_tokens
    refused, accepted = conn.execute(
        select(
            func.count().filter(_refused_lately()),
            func.count().filter(k.c.last_error_code.is_(None)),
        ).where(k.c.last_refreshed_at > func.now() - OUTAGE_WINDOW)
    ).one()
    return refused > accepted and (of_suspect or refused >= OUTAGE_USERS)


def _suspect(conn: Connection, user_ids: Collection[str]) -> None:
    u = t.users
    conn.execute(
        update(u)
        .where(u.c.user_id.in_(user_ids), u.c.connection != "suspect")
        .values(connection="suspect")
    )
    _replace_reconnect_errors(conn, user_ids)


def _replace_reconnect_errors(conn: Connection, user_ids: Collection[str]) -> None:
    """Replace these users' RECONNECT error, which asks to reconnect, by the outage."""
    s = t.sync_state
    conn.execute(
        update(s)
        .where(s.c.user_id.in_(user_ids), s.c.last_error_code == ErrorCode.RECONNECT)
        .values(
            last_error_code=ErrorCode.SPOTIFY_UNAVAILABLE,
            last_error_message=OUTAGE,
            # Newer than the failed request, whose error sync_status would show otherwise.
            recorded_at=func.now(),
        )
    )
