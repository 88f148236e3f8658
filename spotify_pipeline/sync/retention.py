"""Deletes plays that are older than the operator wants to keep; their days stay as they are."""

from datetime import timedelta

from spotify_pipeline.domain.coverage import local_day
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.leases import leased, lock_held
from spotify_pipeline.storage.retention import cut_plays, users_with_plays_before
from spotify_pipeline.sync.pipeline import Pipeline

AT_ONCE = 100
# A cut per week and person: deleting a day's plays every day would cost as much and say no more.
EVERY = timedelta(days=7)


def delete_old_plays(pipeline: Pipeline) -> int:
    """Cut every user's plays at a local midnight, `keep_plays_days` ago; return how many went.

    Users who are being synced, or whose days wait to be computed, are left for the next time.
    """
    keep = pipeline.settings.keep_plays_days
    if not keep:
        return 0
    now, deleted = pipeline.now(), 0
    with pipeline.engine.connect() as conn:
        zones = users_with_plays_before(conn, now - timedelta(days=keep) - EVERY)
    users = sorted(zones)
    for start in range(0, len(users), AT_ONCE):
        with leased(pipeline.engine, users[start : start + AT_ONCE]) as lease:
            # A transaction each: one person's history may be a million plays.
            for user_id in sorted(lease.held):
                zone = check_zone(zones[user_id])
                today = now.astimezone(zone).date()
                cut = local_day(today - timedelta(days=keep), zone).start
                with pipeline.engine.begin() as conn:
                    _, ours = lock_held(conn, [user_id], lease.lease_id)
                    deleted += cut_plays(conn, dict.fromkeys(ours, cut))
    return deleted
