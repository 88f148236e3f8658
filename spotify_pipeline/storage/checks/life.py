"""Signs of life, for `healthy`: Dagster's daemon, the polls, the requests.

Rules about stored rows are in `rules`. Here is only what a restart of a process can mend, so that a
supervisor that acts on it does no harm: a poll that waits for Spotify or for the budget is well.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, exists, func, select, text

from spotify_pipeline.domain.quota import Quota
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.checks.queries import missed_polls
from spotify_pipeline.storage.checks.scopes import Scope
from spotify_pipeline.storage.postgres.engine import server_version
from spotify_pipeline.storage.work.api_budget import read_state
from spotify_pipeline.storage.work.sync_requests import unserved

# Every thread of the daemon writes a heartbeat each 30 seconds, unless it is in the middle of work.
DAEMON_WITHIN = timedelta(seconds=60)
THREAD_WITHIN = timedelta(minutes=10)
# Due users are polled every 15 minutes.
POLL_WITHIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Sign:
    """Whether a part of the pipeline lives, and one sentence about it."""

    part: str
    stale: bool
    sentence: str


def database(conn: Connection) -> Sign:
    """Our database answers; the caller has checked its revision."""
    return Sign("database", False, f"PostgreSQL {server_version(conn)} answers")


def daemon(conn: Connection) -> Sign:
    """The newest heartbeat of Dagster's daemon, and of the slowest of its threads.

    `conn` is on Dagster's database. A daemon of another id ended, and its rows stay.
    """
    if conn.scalar(select(func.to_regclass("daemon_heartbeats"))) is None:
        return Sign("daemon", True, "it has never run")
    row = conn.execute(_HEARTBEATS).one()
    if row.newest is None:
        return Sign("daemon", True, "it has never run")
    if row.newest > DAEMON_WITHIN:
        return Sign("daemon", True, f"its last heartbeat was {_ago(row.newest)}")
    if row.oldest > THREAD_WITHIN:
        return Sign(
            "daemon",
            True,
            f"its thread {row.slowest} hangs: its last heartbeat was {_ago(row.oldest)}",
        )
    return Sign("daemon", False, f"its last heartbeat was {_ago(row.newest)}")


# Dagster writes UTC without a zone.
_HEARTBEATS = text("""
WITH beats AS (
    SELECT daemon_type, daemon_id, (now() AT TIME ZONE 'UTC') - "timestamp" AS age
    FROM daemon_heartbeats
),
alive AS (
    SELECT b.daemon_type, b.age FROM beats AS b
    WHERE b.daemon_id = (SELECT n.daemon_id FROM beats AS n ORDER BY n.age LIMIT 1)
)
SELECT
    min(age) AS newest,
    max(age) AS oldest,
    (SELECT daemon_type FROM alive ORDER BY age DESC LIMIT 1) AS slowest
FROM alive
""")


def polls(conn: Connection, quota: Quota) -> Sign:
    """The last successful poll: stale when users are due and none of them was polled for an hour.

    Waiting counts from the end of a block or outage, and not while the day's calls are used up.
    """
    state = read_state(conn)
    last = conn.scalar(select(func.max(t.sync_state.c.plays_fetched_at)))
    is_due = exists(missed_polls(Scope(state.now)).subquery().select())
    due = bool(conn.scalar(select(is_due)))
    said = f"the last one succeeded {_ago(state.now - last)}" if last else "there was none yet"
    is_full = bool(quota.calls_per_day) and state.calls_of_day() >= quota.day_of("plays")
    begins = [instant for instant in (last, state.blocked_until, state.outage_until) if instant]
    if is_full or not due or (begins and state.now - max(begins) <= POLL_WITHIN):
        return Sign("polls", False, said)
    return Sign("polls", True, f"{said}, and users have been due for an hour")


def requests(conn: Connection) -> Sign:
    """The oldest request that waits for a run, without its own pause and blocks by Spotify."""
    waiting = unserved().subquery()
    number, since, now = conn.execute(
        select(func.count(), func.min(waiting.c.since), func.now())
    ).one()
    if not number:
        return Sign("requests", False, "none has waited longer than 5 minutes")
    return Sign("requests", True, f"{number:,} wait for a run: the first came {_ago(now - since)}")


def _ago(age: timedelta) -> str:
    seconds = max(0, round(age.total_seconds()))
    if seconds < 120:
        return f"{seconds} s ago"
    return f"{seconds // 60:,} min ago"
