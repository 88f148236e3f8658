"""Which alerts are pending and which were sent, per class of events; by the database's clock.

What is wrong is asked of the rules in storage/checks; what an alert says is in
sync/admin/maintenance.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, func, not_, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work.api_budget import is_absurd

AT_MOST_EVERY = timedelta(hours=1)
# A state that lasts is sent again.
REMINDED_AFTER = timedelta(days=1)
# Longer than a try takes: two processes never send the same alert at once.
TRY_AGAIN_AFTER = timedelta(seconds=50)
# A shorter block is waited out and sends no alert.
LONG_BLOCK = timedelta(minutes=1)
# How far back the first look of all goes.
FIRST_LOOK = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class PendingAlert:
    """The state of the alerts of one class; `now` is the database's."""

    event: str
    since: datetime
    reported: int
    sent_at: datetime | None
    now: datetime


def pending_alerts(conn: Connection) -> dict[str, PendingAlert]:
    """Every class of events, by its name."""
    a = t.alerts
    rows = [{"event": event, "since": func.now() - FIRST_LOOK} for event in t.EVENTS]
    conn.execute(insert(a).values(rows).on_conflict_do_nothing())
    found = conn.execute(select(a.c.event, a.c.since, a.c.told, a.c.sent_at, func.now()))
    return {row.event: PendingAlert(*row) for row in found}


def account_blocked(conn: Connection) -> int:
    """1 while Spotify blocks the developer app for longer than a minute, else 0."""
    until = t.api_budget.c.blocked_until
    blocked = until > func.now() + LONG_BLOCK, not_(is_absurd(func.clock_timestamp()))
    return conn.scalar(select(func.count()).where(*blocked)) or 0


def gaps_opened(conn: Connection, since: datetime) -> int:
    """Gaps found since then that are still open."""
    g = t.listening_gaps
    query = select(func.count()).where(g.c.detected_at > since, g.c.closed_at.is_(None))
    return conn.scalar(query) or 0


def lower_reported_count(conn: Connection, event: str, count: int) -> None:
    """Store a lower count than was sent, so that the next increase sends an alert again."""
    a = t.alerts
    conn.execute(update(a).where(a.c.event == event, a.c.told > count).values(told=count))


def claim(conn: Connection, event: str) -> bool:
    """Claim the alert of this event: one caller per event and hour gets True."""
    a = t.alerts

    def passed(instant: ColumnElement[datetime], time: timedelta) -> ColumnElement[bool]:
        # An instant in the future was written by a wrong clock, and would hold all alerts back.
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
    """Record that the alert arrived: the next one counts from when this one was counted."""
    a = t.alerts
    conn.execute(
        update(a)
        .where(a.c.event == alert.event)
        .values(since=alert.now, told=count, sent_at=func.now())
    )
