"""The table sync_state: per user the last sync, the last success, failures, the next due time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Case, Connection, DateTime, Text, case, func, update
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import as_row, bulk_rows


@dataclass(frozen=True, slots=True)
class SyncResult:
    """The changes of a sync to a user's sync_state. Instants are of the facts clock."""

    user_id: str
    synced_at: datetime
    # Whether anything was brought up to date, and whether everything selected was.
    anything_done: bool
    everything_done: bool
    plays_fetched: bool
    tops_fetched: bool
    # None: plays were not fetched, so it stays.
    next_due_at: datetime | None
    # No call was made because no user's calls go out now: not counted as a failure.
    is_held_back: bool = False
    error_code: ErrorCode | None = None
    error_message: str | None = None


_TYPES: dict[str, TypeEngine[Any]] = {
    "user_id": Text(),
    "synced_at": DateTime(timezone=True),
    "anything_done": Boolean(),
    "everything_done": Boolean(),
    "plays_fetched": Boolean(),
    "tops_fetched": Boolean(),
    "is_held_back": Boolean(),
    "next_due_at": DateTime(timezone=True),
    "error_code": Text(),
    "error_message": Text(),
}


def save_results(conn: Connection, results: Sequence[SyncResult]) -> None:
    """Write each user's state; what a sync did not do keeps its earlier instant."""
    if not results:
        return
    s = t.sync_state
    r = bulk_rows([as_row(result) for result in results], _TYPES, "results").c

    def at_if(done: ColumnElement[bool], before: ColumnElement[datetime]) -> Case[datetime]:
        return case((done, r.synced_at), else_=before)

    conn.execute(
        update(s)
        .where(s.c.user_id == r.user_id)
        .values(
            last_synced_at=at_if(r.anything_done, s.c.last_synced_at),
            last_success_at=at_if(r.everything_done, s.c.last_success_at),
            plays_fetched_at=at_if(r.plays_fetched, s.c.plays_fetched_at),
            tops_fetched_at=at_if(r.tops_fetched, s.c.tops_fetched_at),
            consecutive_failures=case(
                (r.everything_done, 0),
                (r.is_held_back, s.c.consecutive_failures),
                else_=s.c.consecutive_failures + 1,
            ),
            last_error_code=r.error_code,
            last_error_message=r.error_message,
            next_due_at=func.coalesce(r.next_due_at, s.c.next_due_at),
            recorded_at=func.now(),
        )
    )
