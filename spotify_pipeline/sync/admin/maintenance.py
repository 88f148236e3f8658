"""Hourly maintenance: connection states, stale days, retention of logs and plays."""

from datetime import timedelta

from spotify_pipeline.domain.listening.coverage import local_day
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.users.connection import drop_dead_tokens, refresh_connection_states
from spotify_pipeline.storage.users.queries import stale_user_ids
from spotify_pipeline.storage.work.leases import Lease, leased, lock_held
from spotify_pipeline.storage.work.retention import (
    cut_plays,
    delete_abandoned_uploads,
    delete_old_logs,
    users_with_plays_before,
)
from spotify_pipeline.sync.bisect import affects_one_user, warn
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.users import rebuild_users

AT_ONCE = 100
# One cut per user and week: daily cuts would cost as much each and delete little.
EVERY = timedelta(days=7)


def run_maintenance(pipeline: Pipeline) -> dict[str, int]:
    """Run all maintenance; returns a count for each duty."""
    with pipeline.engine.begin() as conn:
        refresh_connection_states(conn)
    # Another transaction: it locks users from the first one on (deadlock).
    with pipeline.engine.begin() as conn:
        tokens = drop_dead_tokens(conn)
        stale = stale_user_ids(conn)
    logs = delete_old_logs(pipeline.engine, timedelta(days=pipeline.settings.keep_logs_days))
    for start in range(0, len(stale), AT_ONCE):
        rebuild_users(pipeline, stale[start : start + AT_ONCE])
    return {
        "dead tokens deleted": tokens,
        "log rows deleted": logs,
        "abandoned uploads deleted": delete_abandoned_uploads(pipeline.engine),
        "users rebuilt": len(stale),
        "plays deleted": delete_old_plays(pipeline),
    }


def delete_old_plays(pipeline: Pipeline) -> int:
    """Delete the plays that are older than the operator keeps; their days stay as they are.

    Cuts every user's plays at a local midnight, `keep_plays_days` ago; returns how many went.
    Users who are being synced, or whose days wait to be computed, are left for the next time.
    """
    keep = pipeline.settings.keep_plays_days
    if not keep:
        return 0
    deleted = 0
    with pipeline.engine.connect() as conn:
        zones = users_with_plays_before(conn, pipeline.now() - timedelta(days=keep) - EVERY)
    users = sorted(zones)
    for start in range(0, len(users), AT_ONCE):
        with leased(pipeline.engine, users[start : start + AT_ONCE]) as lease:
            for user_id in sorted(lease.held):
                try:
                    deleted += _cut(pipeline, lease, user_id, zones[user_id])
                except Exception as error:
                    if not affects_one_user(error):
                        raise
                    warn("One user's old plays could not be deleted", error)
    return deleted


def _cut(pipeline: Pipeline, lease: Lease, user_id: str, zone_name: str) -> int:
    zone = check_zone(zone_name)
    today = pipeline.now().astimezone(zone).date()
    cut = local_day(today - timedelta(days=pipeline.settings.keep_plays_days), zone).start
    # A transaction per user: one user may have a million plays.
    with pipeline.engine.begin() as conn:
        ours = lock_held(conn, [user_id], lease.lease_id).ours
        return cut_plays(conn, user_id, cut) if ours else 0
