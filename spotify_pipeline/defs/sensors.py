"""What runs when somebody asked for it: the requests of the app.

The rows of sync_requests are the truth. Every tick first compares them with Dagster's runs, so
whatever died since the last one, a row is served, tried again or closed.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterRunStatus as Status

from spotify_pipeline.defs.jobs import sync_user, sync_users
from spotify_pipeline.defs.partition_reconciler import partition_reconciler
from spotify_pipeline.defs.partitions import listeners
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.tags import DISPATCH_KEY, MAX_RETRIES, PRIORITY, TRIGGER
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from spotify_pipeline.storage.work.sync_requests import Dispatch

# A sensor of several jobs is copied by Dagster itself with an argument that is in beta.
warnings.filterwarnings("ignore", "Parameter `owners` of .*SensorDefinition", dg.BetaWarning)

# Dagster's daemon looks at its sensors every 5 s. A tick that finds nothing to do waits for a
# request for most of that time, so that a person seldom waits for the next tick.
WAIT_SECONDS = 4.0

# Two chunks work side by side; in larger ones the first people would wait for the last.
SMALLEST_CHUNK, LARGEST_CHUNK = 20, 100

PRIORITY_OF_REQUESTS = "10"


@dataclass
class Tick:
    """What a tick did, in numbers."""

    assigned: int = 0
    asked: int = 0
    again: int = 0
    failed: int = 0
    cancelled: int = 0
    open: int = 0

    def __str__(self) -> str:
        return (
            f"{self.assigned} requests assigned, {self.asked} runs asked for; of ended runs "
            f"{self.again} requests tried again, {self.failed} failed, {self.cancelled} cancelled; "
            f"{self.open} open before."
        )


@dg.sensor(
    jobs=[sync_user, sync_users],
    # Less than the daemon's 5 s: a tick that came a millisecond too early would be left out.
    minimum_interval_seconds=3,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def sync_request_sensor(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SensorResult | dg.SkipReason:
    """Asks for one run per open dispatch key, and goes on with requests whose run is gone."""
    from spotify_pipeline.storage.work import api_budget, sync_requests
    from spotify_pipeline.sync.requests import await_request

    tick = Tick()
    with pipeline.opened() as opened:
        with opened.engine.connect() as conn:
            dispatched = sync_requests.dispatched(conn)
        unasked = _reconcile(context.instance, opened.engine, dispatched, tick)
        closed_gate = opened.rate_limiter.closed_to("request")
        full_day = closed_gate.seconds if closed_gate and closed_gate.reason == "DAY" else None
        with opened.engine.begin() as conn:
            # For sync_status to show: SQL does not know the limit.
            api_budget.note_full_day(conn, full_day)
        if closed_gate:
            # Nothing is lost by waiting here: all is asked for when the gate has opened.
            return dg.SkipReason(f"Requests wait: {closed_gate.what_happened}. {tick}")
        if not unasked:
            await_request(opened, WAIT_SECONDS)
        with opened.engine.begin() as conn:
            assigned = sync_requests.assign(conn)
    unasked |= _by_key(assigned)
    tick.assigned, tick.asked = len(assigned), len(unasked)
    if not unasked:
        return dg.SkipReason(str(tick))
    context.log.info(str(tick))
    run_requests = [_run_request(key, rows) for key, rows in unasked.items()]
    # Somebody new may have no partition yet. Not by a request in the result: the tick keeps those.
    users = sorted(request.partition_key for request in run_requests if request.partition_key)
    context.instance.add_dynamic_partitions(listeners.name or "", users)
    return dg.SensorResult(run_requests=run_requests)


def _reconcile(
    instance: dg.DagsterInstance, engine: "Engine", dispatched: "Sequence[Dispatch]", tick: Tick
) -> "dict[str, list[Dispatch]]":
    """Go on with requests whose run has ended or is gone; return those whose run never began."""
    from spotify_pipeline.storage.work import sync_requests

    tick.open = len(dispatched)
    never_begun = {}
    for key, rows in _by_key(dispatched).items():
        run = _run_of(instance, key, rows[0].run_id)
        if rows[0].run_id is None and (run is None or run.status is Status.NOT_STARTED):
            # The daemon died in between. Dagster starts one run per key, however often asked.
            never_begun[key] = rows
        elif run and run.status is Status.CANCELED:
            with engine.begin() as conn:
                tick.cancelled += sync_requests.close_open(conn, key, ErrorCode.CANCELLED)
        elif run is None or run.is_finished:
            crashed = (ErrorCode.CRASHED, WHAT_TO_DO[ErrorCode.CRASHED])
            with engine.begin() as conn:
                retried = sync_requests.retry(conn, key, crashed)
            tick.again += retried.again
            tick.failed += retried.failed
    return never_begun


def _run_of(
    instance: dg.DagsterInstance, dispatch_key: str, run_id: str | None
) -> dg.DagsterRun | None:
    """The run that serves the key; None: it was never created, or it was deleted."""
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


def _run_request(dispatch_key: str, rows: "Sequence[Dispatch]") -> dg.RunRequest:
    """One run for the key; who belongs to a batch is told by the rows, not by the run."""
    from spotify_pipeline.storage.work.sync_requests import is_batch

    tags = {
        TRIGGER: "request",
        DISPATCH_KEY: dispatch_key,
        PRIORITY: PRIORITY_OF_REQUESTS,
        # The queue tries again, and nobody else: retries on retries multiply.
        MAX_RETRIES: "0",
    }
    if not is_batch(dispatch_key):
        return dg.RunRequest(
            dispatch_key, job_name=sync_user.name, partition_key=rows[0].user_id, tags=tags
        )
    chunk_size = min(max(SMALLEST_CHUNK, -(-len(rows) // 2)), LARGEST_CHUNK)
    choice = {"selection": "enlisted", "chunk_size": chunk_size}
    return dg.RunRequest(
        dispatch_key,
        job_name=sync_users.name,
        run_config={"ops": {"choose_users": {"config": choice}}},
        tags=tags,
    )


SENSORS = [sync_request_sensor, partition_reconciler]
