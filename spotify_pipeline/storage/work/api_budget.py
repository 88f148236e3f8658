"""The one budget of the developer account: the row of `api_budget`, shared by every process.

Every change is one statement by the database's clock, so that a process which is stopped or killed
anywhere holds nothing that others wait for. The rules and their arithmetic are `domain.quota`'s: a
call is booked by comparing the row with the one that they were applied to, and swapping it.
"""

from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from spotify_pipeline.domain.quota import (
    APP_BLOCK_SECONDS,
    LONGEST_BLOCK_SECONDS,
    OUTAGE_PROBE_SECONDS,
    OUTAGE_USERS,
    REQUEST_PROBE_SECONDS,
    SLOT_SECONDS,
    BlockReason,
    BudgetState,
    Priority,
    Quota,
    ThrottleReason,
    throttle_reason,
)
from spotify_pipeline.settings import Settings
from spotify_pipeline.storage import tables as t

# The present of the statement, not of its transaction: it may have waited for the row.
CLOCK: ColumnElement[datetime] = func.clock_timestamp()

_b = t.api_budget
# The transaction that last changed the row.
_version: ColumnElement[str] = literal_column("api_budget.xmin::text")


def take(
    conn: Connection,
    quota: Quota,
    priority: Priority | None,
    *,
    probing: bool = False,
    on_behalf_of: Priority | None = None,
    now: ColumnElement[datetime] = CLOCK,
) -> ThrottleReason | None:
    """Admits one call, which must go out within PERMIT_SECONDS, or says why it has to wait.

    Books a call that is counted. A wait of 0 seconds says that a probe is due which no call has
    claimed; `probing` is for the call that has. See `throttle_reason`. `now` replaces the
    database's clock.
    """
    while True:
        state = read_state(conn, now=now)
        throttled = throttle_reason(
            state, quota, priority, probing=probing, on_behalf_of=on_behalf_of
        )
        if throttled:
            return throttled
        if state.due_probe and not probing:
            return ThrottleReason(state.due_probe, 0.0)
        if priority is None or not quota.is_limited:
            return None
        tat, slot, calls = state.with_call(quota)
        booked = (
            update(_b)
            # Compare and swap: of two who read the same row one books, the other looks again. That
            # ends, because each booking of others takes room.
            .where(_version == state.version)
            .values(rate_tat=tat, day_slot=slot, day_calls=calls, updated_at=state.now)
        )
        if conn.execute(booked).rowcount:
            return None


def read_state(conn: Connection, *, now: ColumnElement[datetime] = CLOCK) -> BudgetState:
    """The row as it stands."""
    b = _b.c
    row = (b.rate_tat, b.day_slot, b.day_calls, b.blocked_until, b.blocked_reason, b.outage_until)
    return BudgetState(*conn.execute(select(now, *row, _version)).one())


def block(conn: Connection, seconds: float, reason: BlockReason) -> None:
    """Block all calls for so long. Never shortens a block."""
    until = CLOCK + literal(timedelta(seconds=seconds))
    conn.execute(
        update(_b)
        .where(or_(_b.c.blocked_until.is_(None), _b.c.blocked_until < until, is_absurd(CLOCK)))
        .values(blocked_until=until, blocked_reason=reason, updated_at=CLOCK)
    )


def is_absurd(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """The block ends later than any can: a wrong clock wrote it."""
    longest = case(LONGEST_BLOCK_SECONDS, value=_b.c.blocked_reason)
    return _b.c.blocked_until > now + func.make_interval(0, 0, 0, 0, 0, 0, longest)


def ignored_instants(conn: Connection) -> list[str]:
    """The columns whose instants lie further in the future than they can: they are not believed."""
    row = conn.execute(
        select(
            func.coalesce(is_absurd(CLOCK), False).label("blocked_until"),
            # Of the widest pace that can be configured, which has the default window.
            (_b.c.rate_tat > CLOCK + timedelta(seconds=Quota(1, 0).longest_pace_seconds)).label(
                "rate_tat"
            ),
            func.coalesce(
                _b.c.outage_until > CLOCK + timedelta(seconds=OUTAGE_PROBE_SECONDS), False
            ).label("outage_until"),
            (_b.c.day_slot > func.extract("epoch", CLOCK) / SLOT_SECONDS + 1).label("day_slot"),
        )
    ).one()
    return [name for name, ignored in row._mapping.items() if ignored]


def note_full_day(conn: Connection, seconds: float | None) -> None:
    """Say for how long the limit of the day leaves requests no call; None: it leaves some."""
    until = None if seconds is None else CLOCK + literal(timedelta(seconds=seconds))
    changed = update(_b).values(day_full_until=until, updated_at=CLOCK)
    conn.execute(changed if seconds else changed.where(_b.c.day_full_until.is_not(None)))


def claim_probe(conn: Connection) -> bool:
    """Claim the half-open probe after a block of the app; False: another caller has it.

    Other calls wait for another hour, unless the probe succeeds and the block is cleared.
    """
    claimed = conn.execute(
        update(_b)
        .where(_b.c.blocked_reason == "APP", or_(_b.c.blocked_until <= CLOCK, is_absurd(CLOCK)))
        .values(blocked_until=CLOCK + timedelta(seconds=APP_BLOCK_SECONDS), updated_at=CLOCK)
    )
    return claimed.rowcount > 0


def note_unanswered(conn: Connection) -> bool:
    """Count a user whom Spotify did not answer; returns whether there is an outage now.

    The circuit breaker opens at OUTAGE_USERS in a row, and again after a failed probe.
    """
    users = func.least(_b.c.unanswered_users + 1, OUTAGE_USERS)
    until = CLOCK + timedelta(seconds=OUTAGE_PROBE_SECONDS)
    counted = (
        update(_b)
        .values(
            unanswered_users=users,
            outage_until=case((users >= OUTAGE_USERS, until), else_=_b.c.outage_until),
            updated_at=CLOCK,
        )
        .returning(_b.c.outage_until)
    )
    return conn.execute(counted).scalar_one() is not None


def note_answered(conn: Connection) -> None:
    """Close the circuit breaker and reset its count, because Spotify answered."""
    conn.execute(
        update(_b)
        .where(or_(_b.c.unanswered_users > 0, _b.c.outage_until.is_not(None)))
        .values(unanswered_users=0, outage_until=None, updated_at=CLOCK)
    )


def claim_outage_probe(conn: Connection, priority: Priority | None) -> bool:
    """Claim the half-open probe of an outage; False: another caller has it, or it is not due."""
    ahead = OUTAGE_PROBE_SECONDS - REQUEST_PROBE_SECONDS if priority == "request" else 0
    until = CLOCK + timedelta(seconds=OUTAGE_PROBE_SECONDS)
    due = or_(_b.c.outage_until <= CLOCK + timedelta(seconds=ahead), _b.c.outage_until > until)
    return conn.execute(update(_b).where(due).values(outage_until=until)).rowcount > 0


def make_probe_due(conn: Connection) -> None:
    """Let the next call probe a refused app, before its hour is over."""
    conn.execute(
        update(_b)
        .where(_b.c.blocked_reason == "APP", _b.c.blocked_until > CLOCK)
        .values(blocked_until=CLOCK, updated_at=CLOCK)
    )


def clear_block(conn: Connection, reason: BlockReason | None = None) -> bool:
    """End the block (of this reason; None: any); whether there was one."""
    cleared = update(_b).where(_b.c.blocked_until.is_not(None))
    if reason is not None:
        cleared = cleared.where(_b.c.blocked_reason == reason)
    values = {"blocked_until": None, "blocked_reason": None, "updated_at": CLOCK}
    return conn.execute(cleared.values(values)).rowcount > 0


def quota_of(settings: Settings) -> Quota:
    """The configured limits."""
    return Quota(settings.calls_per_30s, settings.calls_per_day)
