"""The life of a connection: connected, expiring, needs_reauth, and suspect in an outage.

Spotify once answered `invalid_grant` for masses of valid tokens, and a service that believed it
threw them away. So a refusal counts against the refusals of everybody else in the last hour: when
many are refused, nobody is to blame, all of them become suspect and are probed once an hour, and no
token is deleted. All instants are the database's clock.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from sqlalchemy import Connection, and_, case, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.codes import ErrorCode
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.people import ELIGIBLE, SealedToken, is_stored

# An outage: at least so many users refused within the hour, and more than half of those asked.
OUTAGE_USERS = 3
OUTAGE_WINDOW = timedelta(minutes=60)
WARN_AHEAD = timedelta(days=30)
KEEP_AFTER_EXPIRY = timedelta(days=30)

OUTAGE = (
    "Spotify refuses many connections at once, so this is not believed. "
    "It is tried again within the hour; nobody has to reconnect."
)

# Any number that nobody else in this database uses for an advisory lock.
_REFUSALS_LOCK = 0x5350_4F54_5245_46


def settle_connections(conn: Connection, user_ids: Sequence[str] | None = None) -> None:
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
    statement = update(u).where(
        u.c.user_id == k.c.user_id,
        u.c.connection.in_(ELIGIBLE),
        u.c.connection != state,
    )
    if user_ids is not None:
        statement = statement.where(u.c.user_id.in_(user_ids))
    conn.execute(statement.values(connection=state))


def note_refused(
    conn: Connection, user_id: str, refused: SealedToken
) -> Literal["needs_reauth", "suspect"] | None:
    """Remember that Spotify refused this refresh token, and judge whether to believe it.

    None, and nothing written, when a newer token has replaced it meanwhile. In an outage every
    user refused within the hour becomes suspect, those judged before it was one included.
    """
    k, u = t.user_tokens, t.users
    # One at a time: of three processes that judge at once each must see the others' refusals.
    conn.execute(select(func.pg_advisory_xact_lock(_REFUSALS_LOCK)))
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
    if _is_outage(conn):
        _suspect_all(conn)
        return "suspect"
    conn.execute(update(u).where(u.c.user_id == user_id).values(connection="needs_reauth"))
    return "needs_reauth"


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
            ),
        )
        .values(last_refreshed_at=func.now())
        .returning(k.c.user_id)
    )
    return claimed.first() is not None


def trust_again(conn: Connection, user_id: str) -> None:
    """A suspect user's token was honoured: the connection is what it was."""
    u = t.users
    conn.execute(
        update(u)
        .where(u.c.user_id == user_id, u.c.connection == "suspect")
        .values(connection="connected")
    )
    settle_connections(conn, [user_id])


def drop_dead_tokens(conn: Connection) -> int:
    """Delete tokens that ended more than 30 days ago; return how many. The history stays."""
    k, u = t.user_tokens, t.users
    dead = k.c.expires_at < func.now() - KEEP_AFTER_EXPIRY
    gone = conn.scalars(k.delete().where(dead).returning(k.c.user_id)).all()
    conn.execute(update(u).where(u.c.user_id.in_(gone)).values(connection="disconnected"))
    return len(gone)


def _refused_lately() -> ColumnElement[bool]:
    k = t.user_tokens
    return and_(
        k.c.last_refreshed_at > func.now() - OUTAGE_WINDOW,
        k.c.last_error_code == ErrorCode.RECONNECT,
    )


def _is_outage(conn: Connection) -> bool:
    k = t.user_tokens
    asked, refused = conn.execute(
        select(func.count(), func.count().filter(_refused_lately())).where(
            k.c.last_refreshed_at > func.now() - OUTAGE_WINDOW
        )
    ).one()
    return bool(refused >= OUTAGE_USERS and refused * 2 > asked)


def _suspect_all(conn: Connection) -> None:
    u, k, s = t.users, t.user_tokens, t.sync_state
    suspects = conn.scalars(
        update(u)
        .where(
            u.c.user_id.in_(select(k.c.user_id).where(_refused_lately())),
            u.c.connection.in_(("needs_reauth", *ELIGIBLE)),
        )
        .values(connection="suspect")
        .returning(u.c.user_id)
    ).all()
    # Nobody is told any more to reconnect.
    conn.execute(
        update(s)
        .where(s.c.user_id.in_(suspects), s.c.last_error_code == ErrorCode.RECONNECT)
        .values(last_error_code=ErrorCode.SPOTIFY_UNAVAILABLE, last_error_message=OUTAGE)
    )
