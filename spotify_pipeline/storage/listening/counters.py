"""Sums of a user's stored plays and days: listened time, the triggers' counters, the last week.

The counters are counted again after a restore.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    and_,
    case,
    cast,
    collate,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.model import CAPPED_FROM_MS
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of


def plays_heard(*where: ColumnElement[bool]) -> Select[Any]:
    """The statement that reads plays with `listened_ms`, as in domain.listening.days.

    `where` picks the plays of one user in a time, on `t.plays`. The estimate of the first one
    picked needs the play before it, so that has to be picked, too.
    """
    p = t.plays
    since = p.c.played_at - func.lag(p.c.played_at).over(
        partition_by=p.c.user_id, order_by=(p.c.played_at, collate(p.c.track_id, "C"))
    )
    gap = cast(func.extract("epoch", since) * 1000, BigInteger)
    estimate = case(
        (and_(gap >= CAPPED_FROM_MS, gap < p.c.duration_ms), gap),
        else_=func.coalesce(p.c.duration_ms, 0),
    )
    return select(
        p.c.user_id,
        p.c.played_at,
        p.c.source,
        p.c.ms_played,
        func.coalesce(p.c.ms_played, estimate).label("listened_ms"),
    ).where(*where)


def previous_play(user_id: ColumnElement[str], since: Any) -> ColumnElement[datetime]:
    """When the user's last play before an instant ended; the instant where there was none."""
    q = t.plays.alias("previous")
    before = select(func.max(q.c.played_at)).where(q.c.user_id == user_id, q.c.played_at < since)
    # Other tables that `since` refers to belong to the statement around it.
    return func.coalesce(before.correlate_except(q).scalar_subquery(), since)


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

    Also invalidates the fingerprint of the personality. Users who do not exist (any more) are left
    out.
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
    conn.execute(update(counters).where(ours).values(plays=plays, days=days, personality_key=None))


_WEEKS = """
    SELECT u.user_id,
        coalesce(sum(d.plays), 0)::int AS plays,
        -- Half up, like a day's minutes: the sum is numeric, not a bigint.
        round(coalesce(sum(d.listened_ms), 0) / 60000)::int AS minutes,
        count(d.date) FILTER (WHERE d.plays > 0) AS days,
        count(d.date) FILTER (WHERE d.plays > 0 AND d.completeness = 'complete') AS complete_days,
        p.tags,
        p.play_count
    FROM spotify_pipeline.users AS u
    LEFT JOIN spotify_pipeline.daily_listening AS d ON d.user_id = u.user_id
        AND d.date BETWEEN (:now AT TIME ZONE u.timezone)::date - 6
            AND (:now AT TIME ZONE u.timezone)::date
    LEFT JOIN spotify_pipeline.music_personality AS p ON p.user_id = u.user_id
    WHERE u.user_id = ANY (:user_ids)
    GROUP BY u.user_id, p.tags, p.play_count
"""


@dataclass(frozen=True, slots=True)
class Week:
    """A user's last 7 local days, today included; `days` are those with a counted play."""

    plays: int = 0
    minutes: int = 0
    days: int = 0
    complete_days: int = 0
    # Of the music personality; None and 0 when there is none.
    tags: tuple[str, ...] | None = None
    # Plays of the personality's 28 days.
    play_count: int = 0


def read_weeks(conn: Connection, user_ids: Collection[str], now: datetime) -> dict[str, Week]:
    """The week of each user that exists."""
    rows = conn.execute(text(_WEEKS), {"user_ids": list(user_ids), "now": now})
    return {
        row.user_id: Week(
            row.plays,
            row.minutes,
            row.days,
            row.complete_days,
            None if row.tags is None else tuple(row.tags),
            row.play_count or 0,
        )
        for row in rows
    }
