"""Deletes old runs: Dagster never does, and each leaves 35 KB of events.

Dagster deletes a run's events with it, and the UI shows a partition as materialized only while its
latest materialization exists. So that event is stored again, with its own time and without a run,
before the run is deleted.
"""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from spotify_pipeline.defs.partitions import user_partitions

# At most this many runs per hourly job, which deletes them one by one.
MAX_RUNS = 500
PAGE_SIZE = 1000
NO_RUN = ""

FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


def delete_old_runs(instance: dg.DagsterInstance, keep: timedelta) -> dict[str, int]:
    """Delete runs that finished longer than `keep` ago, with their events.

    Returns how many runs were deleted and how many latest materializations were kept.
    """
    old = instance.get_run_records(
        # By the last update, not by creation: a run may have waited in the queue for long.
        dg.RunsFilter(statuses=FINISHED, updated_before=datetime.now(UTC) - keep),
        limit=MAX_RUNS,
        ascending=True,
    )
    kept = 0
    users = set(instance.get_dynamic_partitions(user_partitions.name or "")) if old else set()
    for record in old:
        run_id = record.dagster_run.run_id
        for entry in _latest_materializations(instance, run_id, users):
            instance.handle_new_event(entry._replace(run_id=NO_RUN))
            kept += 1
        delete_whole_run(instance, run_id)
    return {"dagster runs deleted": len(old), "latest materializations kept": kept}


def delete_whole_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run's compute logs, its events, and then the run itself. Idempotent after a crash.

    Dagster's own order deletes the run first: a crash then leaves events that nothing refers to.
    """
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.event_log_storage.delete_events(run_id)
    instance.delete_run(run_id)


def _latest_materializations(
    instance: dg.DagsterInstance, run_id: str, users: set[str]
) -> Iterator[dg.EventLogEntry]:
    """The run's materializations that are their partition's latest, of users who still exist.

    Read in pages: a nightly run has one for every user and asset.
    """
    cursor, has_more = None, True
    while has_more:
        page = instance.get_records_for_run(
            run_id, cursor, dg.DagsterEventType.ASSET_MATERIALIZATION, PAGE_SIZE
        )
        by_asset: dict[dg.AssetKey, dict[str, dg.EventLogRecord]] = defaultdict(dict)
        for record in page.records:
            event = record.event_log_entry.dagster_event
            if event and event.asset_key and event.partition in users:
                by_asset[event.asset_key][event.partition] = record
        for key, records in by_asset.items():
            newest = instance.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(records)
            )
            for partition, record in records.items():
                if newest.get(partition) == record.storage_id:
                    yield record.event_log_entry
        cursor, has_more = page.cursor, page.has_more
