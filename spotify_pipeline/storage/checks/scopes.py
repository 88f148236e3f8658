"""Of which users a rule is asked: of all, or of a slice, another one each hour.

Up to 1,000 users a slice is all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, select, true
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.storage import tables as t

SLICE_USERS = 1_000


@dataclass(frozen=True, slots=True)
class Scope:
    """The users to look at, as of `now` (the facts clock), and the `zones` they live in."""

    now: datetime
    # Only queries about days and zones need them.
    zones: tuple[str, ...] = ()
    # A condition on users, and the same in words.
    who: ColumnElement[bool] = field(default_factory=true)
    words: str = "all users"


ScopeOf = Callable[[Connection, datetime], Scope]


def all_users(conn: Connection, now: datetime) -> Scope:
    """All users."""
    return Scope(now, _zones(conn))


def slice_of_the_hour(conn: Connection, now: datetime) -> Scope:
    """About 1,000 users."""
    users = select(func.count()).select_from(t.users)
    total = conn.execute(users).scalar_one()
    slices = -(-total // SLICE_USERS)
    if slices <= 1:
        return all_users(conn, now)
    # A hash, not an offset: new and deleted users do not move others between slices.
    number = func.hashtextextended(t.users.c.user_id, 0).op("&")(0x7FFF_FFFF)
    turn = number.op("%")(slices) == int(now.timestamp()) // 3600 % slices
    part = conn.execute(users.where(turn)).scalar_one()
    words = f"{part:,} of {total:,} users; every hour looks at others, {slices} hours look at all"
    return Scope(now, _zones(conn), turn, words)


def _zones(conn: Connection) -> tuple[str, ...]:
    return tuple(conn.scalars(select(t.users.c.timezone).distinct()))
