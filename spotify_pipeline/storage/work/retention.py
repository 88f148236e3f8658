"""Retention: deletes old rows of our own logs, and old plays where the operator configured that.

Logs are deleted in batches, each in its own transaction: a large fleet writes millions of rows a
day, and one statement over all of them would hold back vacuum and block other sessions.
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
# Limits an hourly run, even after years without one.
BATCHES = 100
ABANDONED_AFTER = timedelta(days=1)


def delete_old_logs(engine: Engine, keep: timedelta, batch: int = BATCH) -> int:
    """Delete rows older than `keep`; return how many.

    Fetched pages, outcomes and costs of runs, and closed requests. Each user's latest succeeded and
    latest failed request stay, for the request rule and for sync_status.
    """
    oldest = func.now() - keep
    return (
        _delete(engine, t.fetch_log, t.fetch_log.c.fetched_at < oldest, batch)
        + _delete(engine, t.sync_run_users, t.sync_run_users.c.created_at < oldest, batch)
        + _delete(engine, t.sync_run_chunks, t.sync_run_chunks.c.started_at < oldest, batch)
        + _delete(engine, t.sync_requests, _is_history(oldest), batch)
    )


def delete_abandoned_uploads(engine: Engine) -> int:
    """Delete imports that an app opened more than a day ago and never closed, with their rows."""
    i = t.history_imports
    abandoned = and_(i.c.status == "open", i.c.started_at < func.now() - ABANDONED_AFTER)
    return _delete(engine, i, abandoned, BATCH)


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
    # Skips rows that forget_user() is deleting: both lock several rows of a user (deadlock).
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
    """The zones, by user_id, of users with a play before the instant, without stale days."""
    u, p = t.users, t.plays
    older = select(p.c.track_id).where(p.c.user_id == u.c.user_id, p.c.played_at < instant).exists()
    rows = conn.execute(
        select(u.c.user_id, u.c.timezone).where(older, ~u.c.days_stale).order_by(u.c.user_id)
    )
    return {user_id: zone for user_id, zone in rows}


def cut_plays(conn: Connection, user_id: str, cut: datetime) -> int:
    """Delete the user's plays before the cut, and store the cut; return how many plays.

    The caller holds the user's lease.
    """
    u, p = t.users, t.plays
    # A cut never moves back: deleted plays stay deleted. greatest() ignores NULL.
    later = func.greatest(u.c.plays_from, cut)
    conn.execute(update(u).where(u.c.user_id == user_id).values(plays_from=later))
    i = t.imported_plays
    conn.execute(delete(i).where(i.c.user_id == user_id, i.c.ended_at < cut))
    return conn.execute(delete(p).where(p.c.user_id == user_id, p.c.played_at < cut)).rowcount
