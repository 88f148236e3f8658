"""Deletes what is kept for a while only: our own logs, never plays."""

from datetime import timedelta

from sqlalchemy import Connection, delete, func

from spotify_pipeline.storage import tables as t


def delete_old_logs(conn: Connection, keep: timedelta) -> int:
    """Delete fetched-page rows and run outcomes older than `keep`; return how many."""
    oldest = func.now() - keep
    pages = conn.execute(delete(t.fetch_log).where(t.fetch_log.c.fetched_at < oldest))
    runs = conn.execute(delete(t.sync_run_users).where(t.sync_run_users.c.created_at < oldest))
    return pages.rowcount + runs.rowcount
