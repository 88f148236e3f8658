"""Of whom a rule is asked: of everybody, of one user, or of a part of the users, each hour another.

Up to 1,000 users and a million plays a part is everybody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, text, true
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.storage import tables as t

SLICE_USERS = 1_000
# Counted from the index in a tenth of a second or two.
SLICE_PLAYS = 1_000_000

# As Postgres estimates it (-1: not yet): to count them would be the whole work.
_PLAYS = text("SELECT reltuples FROM pg_class WHERE oid = to_regclass('spotify_pipeline.plays')")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows are looked at, as of `now` (the facts clock); `zones` has those they live in."""

    now: datetime
    zones: tuple[str, ...]
    # A condition on users, and the same in words.
    who: ColumnElement[bool]
    words: str


ScopeOf = Callable[[Connection, datetime], Scope]


def all_users(conn: Connection, now: datetime) -> Scope:
    """Everybody."""
    return Scope(now, _zones(conn), true(), "all users")


def one_user(conn: Connection, user_id: str, now: datetime) -> Scope:
    """This user alone."""
    zones = tuple(conn.scalars(select(t.users.c.timezone).where(t.users.c.user_id == user_id)))
    return Scope(now, zones, t.users.c.user_id == user_id, "this user")


def slice_of_the_hour(conn: Connection, now: datetime) -> Scope:
    """About 1,000 users."""
    users = conn.scalar(select(func.count()).select_from(t.users)) or 0
    return _slice(conn, now, -(-users // SLICE_USERS))


def slice_of_plays(conn: Connection, now: datetime) -> Scope:
    """Users who have about a million plays."""
    return _slice(conn, now, -(-int(conn.scalar(_PLAYS) or 0) // SLICE_PLAYS))


def _slice(conn: Connection, now: datetime, slices: int) -> Scope:
    if slices <= 1:
        return all_users(conn, now)
    # A hash, not an offset: whoever comes or goes moves nobody else to another turn.
    number = func.hashtextextended(t.users.c.user_id, 0).op("&")(0x7FFF_FFFF)
    turn = number.op("%")(slices) == int(now.timestamp()) // 3600 % slices
    return Scope(now, _zones(conn), turn, f"1 of {slices} parts of the users, the next in an hour")


def _zones(conn: Connection) -> tuple[str, ...]:
    return tuple(conn.scalars(select(t.users.c.timezone).distinct()))
