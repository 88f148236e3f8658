"""The queue of sync requests, from `queued` to `succeeded` or `failed`.

Whether a request is accepted is decided by the trigger in the database; this module serves those
that were. The row is the truth, Dagster is the executor.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Text, cast, func, select, update

from spotify_pipeline.domain.codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.storage import tables as t

OPEN = ("queued", "running")


@dataclass(frozen=True, slots=True)
class Dispatch:
    """An open request and the key under which exactly one run is asked for."""

    dispatch_key: str
    user_id: str
    status: str
    run_id: str | None


def assign(conn: Connection) -> list[Dispatch]:
    """Give each waiting request its dispatch key; return all open requests, oldest first.

    Returning the already assigned ones too makes a crash between this and Dagster harmless.
    """
    r = t.sync_requests
    waiting = (
        select(r.c.id)
        .where(r.c.status == "queued", r.c.dispatch_key.is_(None))
        .order_by(r.c.id)
        .with_for_update(skip_locked=True)
    )
    conn.execute(
        update(r)
        .where(r.c.id.in_(waiting.scalar_subquery()))
        .values(
            attempts=r.c.attempts + 1,
            dispatch_key=func.concat(
                "request-", cast(r.c.id, Text), "-", cast(r.c.attempts + 1, Text)
            ),
        )
    )
    rows = conn.execute(
        select(r.c.dispatch_key, r.c.user_id, r.c.status, r.c.run_id)
        .where(r.c.status.in_(OPEN), r.c.dispatch_key.is_not(None))
        .order_by(r.c.id)
    )
    return [Dispatch(*row) for row in rows]


def start(conn: Connection, dispatch_key: str, run_id: str) -> None:
    """The run has begun: its requests are running."""
    r = t.sync_requests
    conn.execute(
        update(r)
        .where(r.c.dispatch_key == dispatch_key, r.c.status.in_(OPEN))
        .values(
            status="running", run_id=run_id, started_at=func.coalesce(r.c.started_at, func.now())
        )
    )


def finish(
    conn: Connection,
    dispatch_key: str,
    failures: Mapping[str, tuple[ErrorCode, str] | None],
) -> None:
    """Close the requests of these users: succeeded where the failure is None."""
    r = t.sync_requests
    for user_id, failure in failures.items():
        code, message = failure or (None, None)
        conn.execute(
            update(r)
            .where(
                r.c.dispatch_key == dispatch_key,
                r.c.user_id == user_id,
                r.c.status.in_(OPEN),
            )
            .values(
                status="failed" if failure else "succeeded",
                finished_at=func.now(),
                error_code=code,
                error_message=message,
            )
        )


def put_back(conn: Connection, dispatch_key: str, user_ids: Collection[str]) -> None:
    """Queue these users' requests again, as if no run had been asked for."""
    r = t.sync_requests
    conn.execute(
        update(r)
        .where(r.c.dispatch_key == dispatch_key, r.c.user_id.in_(user_ids), r.c.status.in_(OPEN))
        .values(status="queued", dispatch_key=None, run_id=None, started_at=None)
    )


def close_open(conn: Connection, dispatch_keys: Sequence[str], code: ErrorCode) -> int:
    """Fail the requests whose run ended without an answer; return how many there were."""
    r = t.sync_requests
    closed = conn.execute(
        update(r)
        .where(r.c.dispatch_key.in_(dispatch_keys), r.c.status.in_(OPEN))
        .values(
            status="failed",
            finished_at=func.now(),
            error_code=code,
            error_message=WHAT_TO_DO[code],
        )
        .returning(r.c.id)
    )
    return len(closed.all())
