"""The life of a connection: connected, expiring, needs_reauth, and suspect in an outage.

Spotify once answered `invalid_grant` for masses of valid tokens, and a service that believed it
threw them away. So a refusal counts against the refusals of everybody else in the last hour: when
many are refused, nobody is to blame, all of them become suspect and are probed once an hour, and no
token is deleted. All instants are the database's clock.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, and_, case, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.app import connect_user
from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.scopes import SCOPES
from spotify_pipeline.domain.sealing import Keyring, seal
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.locks import lock_or_skip
from spotify_pipeline.storage.users.queries import ELIGIBLE, SealedToken, is_stored

# An outage: at least so many users refused within the hour, and more than half of those asked.
OUTAGE_USERS = 3
OUTAGE_WINDOW = timedelta(minutes=60)
WARN_AHEAD = timedelta(days=30)
KEEP_AFTER_EXPIRY = timedelta(days=30)
# So many processes or threads that judge refusals are waited for.
JUDGES = 5

OUTAGE = (
    "Spotify refuses many connections at once, so this is not believed. "
    "It is tried again within the hour; nobody has to reconnect."
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
    """Bring up to date what time alone changes, for these users (None: all).

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
        # Users whom another session keeps locked are not waited for: the next sync settles them.
        .with_for_update(of=u, key_share=True, skip_locked=True)
    )
    if user_ids is not None:
        changing = changing.where(u.c.user_id.in_(user_ids))
    states = {row.user_id: row.state for row in conn.execute(changing)}
    free = _lock_requests(conn, states.keys(), skip=True)
    for new_state in sorted({states[user_id] for user_id in free}):
        due = [user_id for user_id in free if states[user_id] == new_state]
        conn.execute(update(u).where(u.c.user_id.in_(due)).values(connection=new_state))


def record_refusal(
    conn: Connection, user_id: str, refused: SealedToken
) -> Literal["needs_reauth", "suspect"] | None:
    """Remember that Spotify refused this refresh token, and judge whether to believe it.

    None, and nothing written, when a newer token has replaced it meanwhile, or another session
    keeps the user or the judging of refusals locked. In an outage every user refused within the
    hour becomes suspect, those judged before it was one included.
    """
    k, u = t.user_tokens, t.users
    # One at a time: of three processes that judge at once each must see the others' refusals.
    if not _lock_refusals(conn):
        return None
    accused = _accused_lately(conn)
    locked = _lock(conn, {user_id, *accused})
    if user_id not in locked:
        return None
    accused &= locked
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
        _suspect(conn, {user_id, *accused})
        return "suspect"
    conn.execute(update(u).where(u.c.user_id == user_id).values(connection="needs_reauth"))
    return "needs_reauth"


def reclassify_as_suspect(conn: Connection, user_ids: Collection[str]) -> set[str]:
    """Those of these users, just told to reconnect, whom an outage has made suspect since.

    Whoever judged it could not see what is written of them only now: so it is mended here.
    """
    # After a wait in vain the suspects who are visible now are mended; the rest are probed later.
    _lock_refusals(conn)
    u = t.users
    suspects = set(
        conn.scalars(
            select(u.c.user_id).where(u.c.user_id.in_(user_ids), u.c.connection == "suspect")
        )
    )
    _take_back(conn, _lock(conn, suspects))
    return suspects


def claim_probe(conn: Connection, user_id: str) -> bool:
    """Whether a suspect user may be tried now; of all processes at most one a hour hears True."""
    k = t.user_tokens
    claimed = conn.execute(
        update(k)
        .where(
            k.c.user_id == user_id,
            or_(
                k.c.last_refreshed_at.is_(None),
                k.c.last_refreshed_at <= func.now() - OUTAGE_WINDOW,
                # Written by a wrong clock: it would keep the user suspect until then.
                k.c.last_refreshed_at > func.clock_timestamp(),
            ),
        )
        # Until the answer is there it counts neither as a refusal nor as a success.
        .values(last_refreshed_at=func.now(), last_error_code=ErrorCode.SPOTIFY_UNAVAILABLE)
        .returning(k.c.user_id)
    )
    return claimed.first() is not None


def clear_suspect(conn: Connection, user_id: str) -> None:
    """A suspect user's token was honoured: the connection is what it was.

    A user whom another session keeps locked stays suspect until the next probe: the new token,
    which exists nowhere else, must be stored now.
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
    """Forget this user's failures, so that a stored token is tried again; returns the connection.

    Without a token nobody is connected, and one that is past its end stays so. None: no such user.
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
    # As if never asked: it counts neither as refused nor as honoured, and a suspect may be probed.
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
    """Delete tokens that ended more than 30 days ago; return how many. The history stays."""
    k, u = t.user_tokens, t.users
    dead = k.c.expires_at < func.now() - KEEP_AFTER_EXPIRY
    # First the people, as connect_user does: who reconnects at this moment keeps the new token.
    locked = _lock(conn, conn.scalars(select(k.c.user_id).where(dead)).all())
    dead &= k.c.user_id.in_(locked)
    gone = conn.scalars(k.delete().where(dead).returning(k.c.user_id)).all()
    conn.execute(update(u).where(u.c.user_id.in_(gone)).values(connection="disconnected"))
    return len(gone)


def _lock_refusals(conn: Connection) -> bool:
    """Let one process at a time judge refusals; False: another one judges for too long.

    Not an advisory lock: every login of the database may take one and keep it.
    """

    def lock(skip: bool) -> bool:
        row = select(t.settings.c.singleton).with_for_update(key_share=True, skip_locked=skip)
        return conn.scalar(row) is not None

    # Each of those before us may itself wait for a locked user.
    locked, skipped = lock_or_skip(conn, lock, waits=JUDGES)
    return locked or not skipped


def _lock(conn: Connection, user_ids: Collection[str]) -> set[str]:
    """Lock these users, their states and requests in the documented order, as strongly as needed.

    Returns who is locked: not those whom another session keeps locked.
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
    """Lock the request locks of these locked users; return the users without those skipped.

    The trigger note_connection locks them too, without a limit of time, and an app that asks for a
    sync and does not commit keeps one. After a restore without triggers a user may have none.
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


def _accused_lately(conn: Connection) -> set[str]:
    """Who was refused within the hour and is not suspect yet."""
    u, k = t.users, t.user_tokens
    return set(
        conn.scalars(
            select(u.c.user_id)
            .join_from(u, k, k.c.user_id == u.c.user_id)
            .where(_refused_lately(), u.c.connection.in_(("needs_reauth", "connected", "expiring")))
        )
    )


def _is_outage(conn: Connection, *, of_suspect: bool) -> bool:
    """Whether the refusals of the last hour are Spotify's fault and not the users'.

    A suspect needs no company to stay one: its token is believed to be dead only when most
    others are honoured. Tries without an outcome, such as a 5xx, say nothing.
    """
    k = t.user_tokens
    refused, honoured = conn.execute(
        select(
            func.count().filter(_refused_lately()),
            func.count().filter(k.c.last_error_code.is_(None)),
        ).where(k.c.last_refreshed_at > func.now() - OUTAGE_WINDOW)
    ).one()
    return refused > honoured and (of_suspect or refused >= OUTAGE_USERS)


def _suspect(conn: Connection, user_ids: Collection[str]) -> None:
    u = t.users
    conn.execute(
        update(u)
        .where(u.c.user_id.in_(user_ids), u.c.connection != "suspect")
        .values(connection="suspect")
    )
    _take_back(conn, user_ids)


def _take_back(conn: Connection, user_ids: Collection[str]) -> None:
    """Tell nobody of these any more to reconnect."""
    s = t.sync_state
    conn.execute(
        update(s)
        .where(s.c.user_id.in_(user_ids), s.c.last_error_code == ErrorCode.RECONNECT)
        .values(
            last_error_code=ErrorCode.SPOTIFY_UNAVAILABLE,
            last_error_message=OUTAGE,
            # Newer than the failed request that told them so.
            recorded_at=func.now(),
        )
    )
