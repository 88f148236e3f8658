"""Deletes what is kept for a while only: our own logs, and plays where the operator wants that.

Logs go in batches, each in a transaction of its own: a day's rows of a large fleet are millions,
and one statement over all of them would hold back vacuum and whoever waits for a lock.
"""

from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    delete,
    func,
    literal_column,
    select,
    update,
)

from spotify_pipeline.storage import tables as t

BATCH = 5_000
# An hourly run ends soon even after years without one.
BATCHES = 100


def delete_old_logs(engine: Engine, keep: timedelta, batch: int = BATCH) -> int:
    """Delete rows older than `keep`; return how many.

    Fetched pages, outcomes and costs of runs, and closed requests: of those each person's latest
    succeeded and latest failed one stay, for the request rule and the status that the app shows.
    """
    oldest = func.now() - keep
    return (
        _delete(engine, t.fetch_log, t.fetch_log.c.fetched_at < oldest, batch)
        + _delete(engine, t.sync_run_users, t.sync_run_users.c.created_at < oldest, batch)
        + _delete(engine, t.sync_run_chunks, t.sync_run_chunks.c.started_at < oldest, batch)
        + _delete(engine, t.sync_requests, _is_history(oldest), batch)
    )


def _is_history(oldest: ColumnElement[datetime]) -> ColumnElement[bool]:
    r, later = t.sync_requests, t.sync_requests.alias()
    superseded = (
        select(later.c.id)
        .where(later.c.user_id == r.c.user_id, later.c.status == r.c.status, later.c.id > r.c.id)
        .correlate(r)
        .exists()
    )
    return and_(r.c.finished_at < oldest, superseded)


def _delete(engine: Engine, table: Table, old: ColumnElement[bool], batch: int) -> int:
    row: ColumnElement[str] = literal_column("ctid")
    # Rows that forget_user() is deleting are skipped: both lock several of a user's (deadlock).
    some = select(row).select_from(table).where(old).limit(batch).correlate(None)
    some = some.with_for_update(skip_locked=True, of=table)
    deleted = 0
    for _ in range(BATCHES):
        with engine.begin() as conn:
            count = conn.execute(delete(table).where(row.in_(some.scalar_subquery()))).rowcount
        deleted += count
        if count < batch:
            break
    return deleted


def users_with_plays_before(conn: Connection, instant: datetime) -> dict[str, str]:
    """The zones of users with a play before, whose days are up to date; by user_id."""
    u, p = t.users, t.plays
    older = select(p.c.track_id).where(p.c.user_id == u.c.user_id, p.c.played_at < instant).exists()
    rows = conn.execute(
        select(u.c.user_id, u.c.timezone).where(older, ~u.c.days_stale).order_by(u.c.user_id)
    )
    return {user_id: zone for user_id, zone in rows}


def cut_plays(conn: Connection, user_id: str, cut: datetime) -> int:
    """Delete the user's plays before the cut, and remember it; return how many plays.

    Nobody else may be writing about the user: their lease is held.
    """
    u, p = t.users, t.plays
    # greatest() ignores NULL. A cut never moves back: what is gone stays gone.
    later = func.greatest(u.c.plays_from, cut)
    conn.execute(update(u).where(u.c.user_id == user_id).values(plays_from=later))
    return conn.execute(delete(p).where(p.c.user_id == user_id, p.c.played_at < cut)).rowcount
