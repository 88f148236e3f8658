"""Deletes old runs: Dagster never does, and each leaves 35 KB of events.

Dagster deletes a run's events with it, and the UI shows a partition as materialized only while its
latest materialization exists. So that event stays, without its run.
"""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import text

from spotify_pipeline.defs.partitions import user_partitions

# The hourly job goes on with what a tick leaves.
TICK_SECONDS = 60.0
MAX_RUNS = 5000
# A nightly run has several events for every user and asset.
PAGE_SIZE = 5000

FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]

# One statement: a crash leaves each event either with its run, to be looked at again, or done.
# Every page is smaller by what it deletes or takes from the run, so none needs a cursor.
_RETIRE_PAGE = text("""
WITH page AS (
    SELECT id, dagster_event_type = 'ASSET_MATERIALIZATION' AND partition IS NOT NULL AS is_fact,
        asset_key, partition
    FROM event_logs
    WHERE run_id = :run_id
    ORDER BY id
    LIMIT :page_size
),
kept AS (
    UPDATE event_logs AS e
    SET run_id = '', event = replace(e.event, '"run_id": "' || :run_id || '"', '"run_id": ""')
    FROM page AS p
    WHERE p.is_fact
        AND e.id = p.id
        AND EXISTS (
            SELECT FROM dynamic_partitions AS d
            WHERE d.partitions_def_name = :users AND d.partition = p.partition
        )
        AND NOT EXISTS (
            SELECT FROM event_logs AS newer
            WHERE newer.asset_key = p.asset_key
                AND newer.dagster_event_type = 'ASSET_MATERIALIZATION'
                AND newer.partition = p.partition
                AND newer.id > p.id
        )
    RETURNING e.id
),
gone AS (
    DELETE FROM event_logs AS e
    USING page AS p
    WHERE e.id = p.id AND NOT EXISTS (SELECT FROM kept AS k WHERE k.id = p.id)
    RETURNING e.id
),
-- What an earlier run left of the same asset and partition is not the latest any more.
replaced AS (
    DELETE FROM event_logs AS e
    USING page AS p
    WHERE p.is_fact
        AND e.asset_key = p.asset_key
        AND e.dagster_event_type = 'ASSET_MATERIALIZATION'
        AND e.partition = p.partition
        AND e.id < p.id
        AND e.run_id = ''
    RETURNING e.id
),
tags AS (
    DELETE FROM asset_event_tags AS t
    USING (SELECT id FROM gone UNION ALL SELECT id FROM replaced) AS e
    WHERE t.event_id = e.id
)
SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM kept)
""")


def delete_old_runs(
    instance: dg.DagsterInstance, keep: timedelta, seconds: float = TICK_SECONDS
) -> dict[str, int]:
    """Delete runs that finished longer than `keep` ago, with their events, for so many seconds.

    Returns how many runs were deleted and how many latest materializations were kept. A run with
    more events than there is time for loses them in several calls, each of a page at least.
    """
    until = time.monotonic() + seconds
    old = instance.get_run_records(
        # By the last update, not by creation: a run may have waited in the queue for long.
        dg.RunsFilter(statuses=FINISHED, updated_before=datetime.now(UTC) - keep),
        limit=MAX_RUNS,
        ascending=True,
    )
    storage = instance.event_log_storage
    assert isinstance(storage, PostgresEventLogStorage)
    done = {"dagster runs deleted": 0, "latest materializations kept": 0}
    for record in old:
        run_id = record.dagster_run.run_id
        page = {"run_id": run_id, "page_size": PAGE_SIZE, "users": user_partitions.name}
        events = PAGE_SIZE
        while events:
            with storage.index_connection() as conn:
                events, kept = conn.execute(_RETIRE_PAGE, page).one()
            done["latest materializations kept"] += kept
            if events and time.monotonic() >= until:
                return done
        delete_whole_run(instance, run_id)
        done["dagster runs deleted"] += 1
    return done


def delete_whole_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run's compute logs, its events, and then the run itself. Idempotent after a crash.

    Dagster's own order deletes the run first: a crash then leaves events that nothing refers to.
    """
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.event_log_storage.delete_events(run_id)
    instance.delete_run(run_id)
