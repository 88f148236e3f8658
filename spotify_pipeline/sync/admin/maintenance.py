"""Hourly maintenance: connection states, stale days, retention of logs and plays."""

from datetime import timedelta

from spotify_pipeline.storage.users.connection import drop_dead_tokens, refresh_connection_states
from spotify_pipeline.storage.users.queries import stale_user_ids
from spotify_pipeline.storage.work.retention import delete_abandoned_uploads, delete_old_logs
from spotify_pipeline.sync.admin.retention import delete_old_plays
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.users import rebuild_users

REBUILD_AT_ONCE = 100


def run_maintenance(pipeline: Pipeline) -> dict[str, int]:
    """Run all maintenance; returns a count for each duty."""
    with pipeline.engine.begin() as conn:
        refresh_connection_states(conn)
    # Another transaction: it locks users from the first one on (deadlock).
    with pipeline.engine.begin() as conn:
        tokens = drop_dead_tokens(conn)
        stale = stale_user_ids(conn)
    logs = delete_old_logs(pipeline.engine, timedelta(days=pipeline.settings.keep_logs_days))
    for start in range(0, len(stale), REBUILD_AT_ONCE):
        rebuild_users(pipeline, stale[start : start + REBUILD_AT_ONCE])
    return {
        "dead tokens deleted": tokens,
        "log rows deleted": logs,
        "abandoned uploads deleted": delete_abandoned_uploads(pipeline.engine),
        "users rebuilt": len(stale),
        "plays deleted": delete_old_plays(pipeline),
    }
