"""Stored plays and days per user, as triggers count them; recounts them after a restore."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of


@dataclass(frozen=True, slots=True)
class Counts:
    """How many plays and days of a user are stored."""

    plays: int = 0
    days: int = 0


def read_counts(conn: Connection, user_ids: Collection[str]) -> dict[str, Counts]:
    """The counters of each of these users; 0 for users who have none."""
    c = t.listening_tallies
    rows = conn.execute(
        select(c.c.user_id, c.c.plays, c.c.days).where(any_of(c.c.user_id, user_ids))
    )
    return dict.fromkeys(user_ids, Counts()) | {row[0]: Counts(*row[1:]) for row in rows}


def recount(conn: Connection, user_ids: Sequence[str]) -> None:
    """Count these users' plays and days again, in the caller's transaction.

    Also invalidates the fingerprint of the personality and the sums of its streaks. Users who do
    not exist (any more) are left out.
    """
    u, counters = t.users, t.listening_tallies
    there = select(u.c.user_id).where(any_of(u.c.user_id, user_ids))
    conn.execute(insert(counters).from_select(["user_id"], there).on_conflict_do_nothing())
    ours = any_of(counters.c.user_id, user_ids)
    # Prevents a lost update: the count is a statement of its own after the lock, so it sees what
    # others committed until then, and later writers add to our number.
    conn.execute(
        select(counters.c.user_id)
        .where(ours)
        .order_by(counters.c.user_id)
        .with_for_update(key_share=True)
    )
    plays, days = (
        select(func.count()).where(table.c.user_id == counters.c.user_id).scalar_subquery()
        for table in (t.plays, t.daily_listening)
    )
    conn.execute(
        update(counters)
        .where(ours)
        .values(plays=plays, days=days, personality_key=None, streaks_before=None)
    )
