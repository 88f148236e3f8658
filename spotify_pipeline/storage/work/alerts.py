"""What the operator has to know and has not been told, as counts; by the database's clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, func, not_, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work.api_budget import is_absurd
from spotify_pipeline.storage.work.sync_requests import unserved

AT_MOST_EVERY = timedelta(hours=1)
# A state that lasts is told again.
REMINDED_AFTER = timedelta(days=1)
# Longer than a try takes: two processes never send the same alert at once.
TRY_AGAIN_AFTER = timedelta(seconds=50)
# A shorter pause is waited out and no news.
LONG_BLOCK = timedelta(minutes=1)
# How far back the first look of all goes.
FIRST_LOOK = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class PendingAlert:
    """How the alerts of one class stand; `now` is the database's."""

    event: str
    since: datetime
    told: int
    sent_at: datetime | None
    now: datetime


def pending_alerts(conn: Connection) -> dict[str, PendingAlert]:
    """Every class of events, by its name."""
    a = t.alerts
    rows = [{"event": event, "since": func.now() - FIRST_LOOK} for event in t.EVENTS]
    for row in rows:
        conn.execute(insert(a).values(row).on_conflict_do_nothing())
    found = conn.execute(select(a.c.event, a.c.since, a.c.told, a.c.sent_at, func.now()))
    return {row.event: PendingAlert(*row) for row in found}


def standing(conn: Connection) -> dict[str, int]:
    """Counts of what stands now: a block, suspect users, users to reconnect, waiting requests."""
    u, b = t.users, t.api_budget

    conditions = {
        "account_blocked": and_(
            b.c.blocked_until > func.now() + LONG_BLOCK, not_(is_absurd(func.clock_timestamp()))
        ),
        "outage": u.c.connection == "suspect",
        "users_to_reconnect": u.c.connection == "needs_reauth",
    }
    counts = {
        event: conn.scalar(select(func.count()).where(condition)) or 0
        for event, condition in conditions.items()
    }
    waiting = select(func.count()).select_from(unserved().subquery())
    return counts | {"requests_waiting": conn.scalar(waiting) or 0}


def gaps_opened(conn: Connection, since: datetime) -> int:
    """Gaps found since then that are still open."""
    g = t.listening_gaps
    query = select(func.count()).where(g.c.detected_at > since, g.c.closed_at.is_(None))
    return conn.scalar(query) or 0


def lower(conn: Connection, event: str, count: int) -> None:
    """Fewer stand than were told: the next one is news again."""
    a = t.alerts
    conn.execute(update(a).where(a.c.event == event, a.c.told > count).values(told=count))


def claim(conn: Connection, event: str) -> bool:
    """Whether the caller is the one to send an alert of this class now: one per class and hour."""
    a = t.alerts

    def passed(instant: ColumnElement[datetime], time: timedelta) -> ColumnElement[bool]:
        # One in the future was written by a wrong clock, and would keep all alerts back until then.
        future = instant > func.clock_timestamp()
        return or_(instant.is_(None), instant <= func.now() - time, future)

    claimed = conn.execute(
        update(a)
        .where(
            a.c.event == event,
            passed(a.c.sent_at, AT_MOST_EVERY),
            passed(a.c.tried_at, TRY_AGAIN_AFTER),
        )
        .values(tried_at=func.now())
    )
    return claimed.rowcount > 0


def sent(conn: Connection, alert: PendingAlert, count: int) -> None:
    """It arrived: what happened until the look is told."""
    a = t.alerts
    conn.execute(
        update(a)
        .where(a.c.event == alert.event)
        .values(since=alert.now, told=count, sent_at=func.now())
    )
