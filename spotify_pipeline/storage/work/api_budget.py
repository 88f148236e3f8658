"""The one budget of the developer account: the row of `api_budget`, shared by every process.

Every change is one statement by the database's clock, so that a process which is stopped or killed
anywhere holds nothing that others wait for. The rules and their arithmetic are `domain.quota`'s.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, case, func, literal, or_, select, text, update

from spotify_pipeline.domain.quota import (
    APP_BLOCK_SECONDS,
    LONGEST_BLOCK_SECONDS,
    LONGEST_PAUSE_SECONDS,
    OUTAGE_PROBE_SECONDS,
    OUTAGE_USERS,
    REQUEST_PROBE_SECONDS,
    SLOT_SECONDS,
    SLOTS,
    BlockReason,
    BudgetState,
    Priority,
    Quota,
)
from spotify_pipeline.settings import Settings
from spotify_pipeline.storage import tables as t

# The present of the statement, not of its transaction: it may have waited for the row.
CLOCK: ColumnElement[datetime] = func.clock_timestamp()

_b = t.api_budget

# As text, because it has to be read: it decides whether Spotify bans the account.
_TAKE = text("""
WITH held AS (
    -- Locked first: all that follows is computed from the row as the last process left it.
    SELECT b.*, coalesce(:now, clock_timestamp()) AS now
    FROM spotify_pipeline.api_budget AS b
    FOR UPDATE
),
counted AS (
    SELECT
        h.now,
        CASE WHEN h.rate_tat <= h.now + make_interval(secs => :longest_pace)
            THEN greatest(h.rate_tat, h.now) ELSE h.now END AS tat,
        -- Never a slot of the future, which a wrong clock wrote: its calls would count for ever.
        s.slot,
        -- A zero for every slot since the newest that was counted.
        (array_fill(0, ARRAY[least(greatest(s.slot - h.day_slot, 0), :slots)::integer])
            || h.day_calls)[1 : :slots] AS slots
    FROM held AS h
    CROSS JOIN LATERAL
        (SELECT floor(extract(epoch FROM h.now) / :slot_seconds)::bigint AS slot) AS s
    WHERE (h.outage_until IS NULL OR :probing) AND (h.blocked_until IS NULL
        OR (h.blocked_reason <> 'APP' AND (
            h.blocked_until <= h.now
            OR h.blocked_until > h.now + make_interval(secs => :longest_pause)))
        OR (h.blocked_reason = 'APP' AND :probing))
),
granted AS (
    -- least() passes over NULL, and NULL is no limit.
    SELECT
        c.*,
        least(
            :calls,
            :calls_of_day - (SELECT sum(n) FROM unnest(c.slots) AS n),
            -- Instants are rounded to microseconds: that is not to cost a whole interval.
            :burst - ceil(extract(epoch FROM c.tat - c.now)::float8 / :interval - 0.001)
        )::integer AS calls
    FROM counted AS c
)
UPDATE spotify_pipeline.api_budget AS b
SET
    rate_tat = g.tat + g.calls * make_interval(secs => coalesce(:interval, 0)),
    day_slot = g.slot,
    day_calls = (g.slots[1] + g.calls) || g.slots[2 : :slots],
    updated_at = g.now
FROM granted AS g
WHERE g.calls >= 1
RETURNING g.calls
""")


def take(
    conn: Connection,
    quota: Quota,
    priority: Priority,
    calls: int = 1,
    *,
    probing: bool = False,
    now: datetime | None = None,
) -> int:
    """Books up to so many calls and returns how many; they must go out within PERMIT_SECONDS.

    0: blocked, or a bucket has no room; `read_state` says which. `probing` ignores a block of the
    app and an outage, for the caller that claimed the probe. `now` replaces the database's clock.
    """
    booked = conn.scalar(
        _TAKE,
        {
            "now": now,
            "slots": SLOTS,
            "slot_seconds": SLOT_SECONDS,
            "probing": probing,
            "longest_pace": quota.longest_pace_seconds,
            "longest_pause": LONGEST_PAUSE_SECONDS,
            "calls": calls,
            "calls_of_day": quota.day_of(priority) if quota.calls_per_day else None,
            "burst": quota.burst_of(priority),
            "interval": quota.interval_seconds if quota.calls_per_window else None,
        },
    )
    return booked or 0


def read_state(conn: Connection, *, now: ColumnElement[datetime] = CLOCK) -> BudgetState:
    """The row as it stands."""
    columns = (_b.c.rate_tat, _b.c.day_slot, _b.c.day_calls, _b.c.blocked_until)
    return BudgetState(
        *conn.execute(select(now, *columns, _b.c.blocked_reason, _b.c.outage_until)).one()
    )


def block(
    conn: Connection, seconds: float, reason: BlockReason, *, now: ColumnElement[datetime] = CLOCK
) -> None:
    """Block all calls for so long. Never shortens a block."""
    until = now + literal(timedelta(seconds=seconds))
    conn.execute(
        update(_b)
        .where(or_(_b.c.blocked_until.is_(None), _b.c.blocked_until < until, is_absurd(now)))
        .values(blocked_until=until, blocked_reason=reason, updated_at=now)
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


def claim_probe(conn: Connection, *, now: ColumnElement[datetime] = CLOCK) -> bool:
    """Claim the half-open probe after a block of the app; False: another caller has it.

    Other calls wait for another hour, unless the probe succeeds and the block is cleared.
    """
    claimed = conn.execute(
        update(_b)
        .where(_b.c.blocked_reason == "APP", or_(_b.c.blocked_until <= now, is_absurd(now)))
        .values(blocked_until=now + timedelta(seconds=APP_BLOCK_SECONDS), updated_at=now)
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


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget for an operator. Limits of None: there is none."""

    calls_of_day: int
    calls_per_day: int | None
    calls_per_30s: int | None
    blocked_until: datetime | None
    blocked_reason: BlockReason | None
    outage_until: datetime | None

    @property
    def calls_left(self) -> int | None:
        """Calls that requests may still make in these 24 hours."""
        return (
            None if self.calls_per_day is None else max(0, self.calls_per_day - self.calls_of_day)
        )


def quota_of(settings: Settings) -> Quota:
    """The configured limits."""
    return Quota(settings.calls_per_30s, settings.calls_per_day)


def budget_state(conn: Connection, settings: Settings) -> Budget:
    """The remaining budget; without a day limit calls are not counted. Omits a block that ended."""
    state = read_state(conn)
    return Budget(
        calls_of_day=state.calls_of_day(),
        calls_per_day=settings.calls_per_day or None,
        calls_per_30s=settings.calls_per_30s or None,
        blocked_until=state.blocked_until if state.is_blocked else None,
        blocked_reason=state.blocked_reason if state.is_blocked else None,
        outage_until=state.outage_until,
    )
