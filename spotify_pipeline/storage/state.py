"""How each user's syncs stand: sync_state."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, literal, update

from spotify_pipeline.domain.codes import ErrorCode
from spotify_pipeline.storage import tables as t


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a sync leaves in a user's state. Instants are of the facts clock."""

    user_id: str
    synced_at: datetime
    # Whether anything was brought up to date, and whether everything selected was.
    anything_done: bool
    everything_done: bool
    plays_fetched: bool
    tops_fetched: bool
    # None: plays were not asked for, so it stays.
    next_due_at: datetime | None
    error_code: ErrorCode | None = None
    error_message: str | None = None


def save_results(conn: Connection, results: Sequence[SyncResult]) -> None:
    """Write each user's state; what a sync did not do keeps its earlier instant."""
    s = t.sync_state
    for result in results:
        at = literal(result.synced_at)
        conn.execute(
            update(s)
            .where(s.c.user_id == result.user_id)
            .values(
                last_synced_at=at if result.anything_done else s.c.last_synced_at,
                last_success_at=at if result.everything_done else s.c.last_success_at,
                plays_fetched_at=at if result.plays_fetched else s.c.plays_fetched_at,
                tops_fetched_at=at if result.tops_fetched else s.c.tops_fetched_at,
                consecutive_failures=0 if result.everything_done else s.c.consecutive_failures + 1,
                last_error_code=result.error_code,
                last_error_message=result.error_message,
                next_due_at=result.next_due_at or s.c.next_due_at,
                recorded_at=func.now(),
            )
        )
