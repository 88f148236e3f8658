"""Deletes old runs: Dagster never does, and each leaves 35 KB of events."""

from datetime import UTC, datetime, timedelta

import dagster as dg

KEEP_RUNS = timedelta(days=30)
# A tick of the hourly job deletes at most this many, so that it ends soon.
AT_ONCE = 500

FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


def delete_old_runs(instance: dg.DagsterInstance) -> int:
    """Delete finished runs older than 30 days with their events; return how many."""
    old = instance.get_run_records(
        dg.RunsFilter(statuses=FINISHED, created_before=datetime.now(UTC) - KEEP_RUNS),
        limit=AT_ONCE,
        ascending=True,
    )
    for record in old:
        instance.delete_run(record.dagster_run.run_id)
    return len(old)
