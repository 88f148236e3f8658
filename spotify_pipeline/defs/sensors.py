"""The sensor that starts runs for the sync requests of the app, and the one that alerts.

The rows of sync_requests are the source of truth. Every tick first compares them with Dagster's
runs, so after any crash a request is dispatched again, retried or closed.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterRunStatus as Status

from spotify_pipeline.defs.history_imports import history_import_sensor
from spotify_pipeline.defs.jobs import sync_user, sync_users
from spotify_pipeline.defs.partitions import (
    DISPATCH_KEY,
    MAX_RETRIES,
    PRIORITY,
    REQUESTS,
    TRIGGER,
    partition_reconciler,
    user_partitions,
)
from spotify_pipeline.defs.resources import PipelineResource, await_work
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.terminal import count

if TYPE_CHECKING:
    from spotify_pipeline.storage.postgres.types import Engine
    from spotify_pipeline.storage.work.sync_requests import Dispatch

# A sensor of several jobs is copied by Dagster itself with an argument that is in beta.
warnings.filterwarnings("ignore", "Parameter `owners` of .*SensorDefinition", dg.BetaWarning)

# Two chunks run in parallel; in larger chunks the first users would wait for the last.
SMALLEST_CHUNK, LARGEST_CHUNK = 20, 100

# A run for more users than this takes seconds of every core: dagster.yaml lets one run at a time.
MOST_IN_PARALLEL = 50
PRIORITY_OF_REQUESTS = 10


@dataclass
class Tick:
    """Counts of what a tick did."""

    assigned: int = 0
    asked: int = 0
    again: int = 0
    failed: int = 0
    cancelled: int = 0
    open: int = 0

    def __str__(self) -> str:
        counts = (
            (self.assigned, "request", "given to runs"),
            (self.asked, "run", "asked for"),
            (self.again, "request", "of crashed runs tried again"),
            (self.failed, "request", "of crashed runs failed"),
            (self.cancelled, "request", "of cancelled runs cancelled"),
            (self.open, "request", "in progress"),
        )
        done = ", ".join(f"{count(n, noun)} {what}" for n, noun, what in counts if n)
        return f"{done}." if done else "No requests."


@dg.sensor(
    jobs=[sync_user, sync_users],
    # Our daemon looks again a second after a tick has submitted runs.
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Starts runs for the rows that the app writes to sync_requests, and retries requests whose "
        "run has crashed. A tick waits for a request, so that a user seldom waits for the next one."
    ),
)
def sync_request_sensor(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SensorResult | dg.SkipReason:
    """Starts runs for open sync requests, and retries requests whose run has crashed."""
    from spotify_pipeline.storage.work import api_budget, sync_requests

    tick = Tick()
    with pipeline.opened() as opened:
        with opened.engine.connect() as conn:
            dispatched = sync_requests.dispatched(conn)
        undispatched = _reconcile(context.instance, opened.engine, dispatched, tick)
        throttled = opened.rate_limiter.closed_to("request")
        full_day = throttled.seconds if throttled and throttled.reason == "DAY" else None
        with opened.engine.begin() as conn:
            # For sync_status to show: SQL does not know the limit.
            api_budget.note_full_day(conn, full_day)
        if throttled:
            # Requests stay in the table and are dispatched when the limit has passed.
            return dg.SkipReason(f"Requests wait: {throttled.what_happened}. {tick}")
        if not undispatched:
            # Each tick first looks for runs that have crashed, so they come often meanwhile.
            await_work(opened, sync_requests.any_waiting, briefly=bool(dispatched))
        with opened.engine.begin() as conn:
            assigned = sync_requests.assign(conn)
    undispatched |= _by_key(assigned)
    tick.assigned, tick.asked = len(assigned), len(undispatched)
    if not undispatched:
        return dg.SkipReason(str(tick))
    context.log.info(str(tick))
    run_requests = [
        _run_request(key, rows, place) for place, (key, rows) in enumerate(undispatched.items())
    ]
    # A new user may have no partition yet. Added here and not in the result: Dagster stores a
    # tick's requests, and they would name users for ever.
    users = sorted(request.partition_key for request in run_requests if request.partition_key)
    context.instance.add_dynamic_partitions(user_partitions.name or "", users)
    return dg.SensorResult(run_requests=run_requests)


def _reconcile(
    instance: dg.DagsterInstance, engine: "Engine", dispatched: "Sequence[Dispatch]", tick: Tick
) -> "dict[str, list[Dispatch]]":
    """Retry or close requests whose run has ended or is gone; return those without a run."""
    from spotify_pipeline.storage.work import sync_requests

    tick.open = len(dispatched)
    without_run = {}
    for key, rows in _by_key(dispatched).items():
        run = _run_of(instance, key, rows[0].run_id)
        if rows[0].run_id is None and (run is None or run.status is Status.NOT_STARTED):
            # The daemon crashed in between. Idempotent: Dagster starts one run per run key.
            without_run[key] = rows
        elif run and run.status is Status.CANCELED:
            with engine.begin() as conn:
                tick.cancelled += sync_requests.close_open(conn, key, ErrorCode.CANCELLED)
        elif run is None or run.is_finished:
            crashed = (ErrorCode.CRASHED, WHAT_TO_DO[ErrorCode.CRASHED])
            with engine.begin() as conn:
                retried = sync_requests.retry(conn, key, crashed)
            tick.again += retried.again
            tick.failed += retried.failed
    return without_run


def _run_of(
    instance: dg.DagsterInstance, dispatch_key: str, run_id: str | None
) -> dg.DagsterRun | None:
    """The run of the dispatch key; None if it was never created or was deleted."""
    if run_id:
        return instance.get_run_by_id(run_id)
    records = instance.get_run_records(dg.RunsFilter(tags={DISPATCH_KEY: dispatch_key}), limit=1)
    return records[0].dagster_run if records else None


def _by_key(rows: "Iterable[Dispatch]") -> "dict[str, list[Dispatch]]":
    """The requests of each dispatch key, in order."""
    found: dict[str, list[Dispatch]] = {}
    for row in rows:
        found.setdefault(row.dispatch_key, []).append(row)
    return found


def _run_request(dispatch_key: str, rows: "Sequence[Dispatch]", place: int) -> dg.RunRequest:
    """One run for the key. A batch's users are read from the rows: its run names no user.

    `place`: how many runs the tick asks for before it. The further back in a flood, the more later
    requests go first.
    """
    from spotify_pipeline.storage.work.sync_requests import is_batch

    tags = {
        TRIGGER: "request",
        DISPATCH_KEY: dispatch_key,
        PRIORITY: str(PRIORITY_OF_REQUESTS),
        # sync_requests counts the retries; with Dagster's retries on top they would multiply.
        MAX_RETRIES: "0",
    }
    if not is_batch(dispatch_key):
        return dg.RunRequest(
            dispatch_key, job_name=sync_user.name, partition_key=rows[0].user_id, tags=tags
        )
    if len(rows) > MOST_IN_PARALLEL:
        tags |= {REQUESTS: "many", PRIORITY: str(max(1, PRIORITY_OF_REQUESTS - place))}
    chunk_size = min(max(SMALLEST_CHUNK, -(-len(rows) // 2)), LARGEST_CHUNK)
    choice = {"selection": "enlisted", "chunk_size": chunk_size}
    return dg.RunRequest(
        dispatch_key,
        job_name=sync_users.name,
        run_config={"ops": {"choose_users": {"config": choice}}},
        tags=tags,
    )


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts counts of what is wrong to SPOTIFY_PIPELINE_ALERT_URL, if that is set.",
)
def alert_sensor(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
    """Posts counts of what is wrong to SPOTIFY_PIPELINE_ALERT_URL."""
    from spotify_pipeline.settings import load_settings
    from spotify_pipeline.sync.admin.maintenance import notify_operator

    if load_settings().alert_url is None:
        return dg.SkipReason("SPOTIFY_PIPELINE_ALERT_URL is not set.")

    def failed_runs(since: datetime) -> int:
        failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
        return context.instance.get_runs_count(failed)

    with pipeline.opened() as opened:
        sent = notify_operator(opened, failed_runs)
    counts = ", ".join(f"{count} {event}" for event, count in sent.items())
    return dg.SkipReason(f"Alerted of {counts}." if sent else "Nothing is wrong.")


SENSORS = [sync_request_sensor, history_import_sensor, partition_reconciler, alert_sensor]
