"""Milliseconds heard of a play, in SQL: the rule of domain.listening.days.listened_ms.

Imports no pandas, because the code location loads the checks.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Select, and_, case, cast, collate, func, select
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.model import CAPPED_FROM_MS
from spotify_pipeline.storage import tables as t


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
