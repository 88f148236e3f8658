"""Deletes old runs: Dagster never does, and each leaves 35 KB of events.

The UI knows that a partition is materialized by its latest event alone, which goes with its run.
So that event is stored once more, with its own time and without a run, before the run is deleted.
"""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from spotify_pipeline.defs.partitions import listeners

# A tick of the hourly job deletes at most this many, one after the other, so that it ends soon.
AT_ONCE = 500
PAGE = 1000
NO_RUN = ""

FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


def delete_old_runs(instance: dg.DagsterInstance, keep: timedelta) -> dict[str, int]:
    """Delete runs that finished before the time to keep them, with their events.

    Returns how many runs went and how many latest materializations were kept without one.
    """
    old = instance.get_run_records(
        # By their last event: a run that waited in the queue for long is not old.
        dg.RunsFilter(statuses=FINISHED, updated_before=datetime.now(UTC) - keep),
        limit=AT_ONCE,
        ascending=True,
    )
    kept = 0
    people = set(instance.get_dynamic_partitions(listeners.name or "")) if old else set()
    for record in old:
        run_id = record.dagster_run.run_id
        for entry in _latest_of(instance, run_id, people):
            instance.handle_new_event(entry._replace(run_id=NO_RUN))
            kept += 1
        delete_whole_run(instance, run_id)
    return {"dagster runs deleted": len(old), "materializations kept": kept}


def delete_whole_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete what a run printed, its events, and then the run: a crash in between repeats it.

    Dagster deletes the run first, and after a crash nothing would lead to its events any more.
    """
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.event_log_storage.delete_events(run_id)
    instance.delete_run(run_id)


def _latest_of(
    instance: dg.DagsterInstance, run_id: str, people: set[str]
) -> Iterator[dg.EventLogEntry]:
    """The run's materializations that nothing newer has replaced; of people who still exist.

    A page at a time: a night's run has one for every listener and asset.
    """
    cursor, has_more = None, True
    while has_more:
        page = instance.get_records_for_run(
            run_id, cursor, dg.DagsterEventType.ASSET_MATERIALIZATION, PAGE
        )
        told: dict[dg.AssetKey, dict[str, dg.EventLogRecord]] = defaultdict(dict)
        for record in page.records:
            event = record.event_log_entry.dagster_event
            if event and event.asset_key and event.partition in people:
                told[event.asset_key][event.partition] = record
        for key, records in told.items():
            newest = instance.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(records)
            )
            for partition, record in records.items():
                if newest.get(partition) == record.storage_id:
                    yield record.event_log_entry
        cursor, has_more = page.cursor, page.has_more
