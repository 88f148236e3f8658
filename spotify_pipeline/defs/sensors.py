"""What runs when something happened: here the requests of the app."""

import dagster as dg
from dagster import DagsterRunStatus as Status

from spotify_pipeline.defs.jobs import sync_user
from spotify_pipeline.defs.partition_reconciler import partition_reconciler
from spotify_pipeline.defs.partitions import listeners
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.tags import DISPATCH_KEY, PRIORITY, TRIGGER
from spotify_pipeline.domain.codes import ErrorCode

# Ended without closing its requests: what to tell the person.
ENDED = {
    Status.CANCELED: ErrorCode.CANCELLED,
    Status.FAILURE: ErrorCode.CRASHED,
    Status.SUCCESS: ErrorCode.CRASHED,
}


@dg.sensor(
    job=sync_user,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def sync_request_sensor(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SensorResult | dg.SkipReason:
    """Asks for one run per open request, and closes requests whose run ended without an answer."""
    from spotify_pipeline.storage import requests

    with pipeline.opened() as opened:
        with opened.engine.begin() as conn:
            waiting = requests.assign(conn)
        ended = _ended_runs(context.instance, [w.dispatch_key for w in waiting])
        with opened.engine.begin() as conn:
            closed = sum(
                requests.close_open(conn, [key], code) for key, code in sorted(ended.items())
            )
        closed_gate = opened.gate.closed_to("request")
    fresh = [w for w in waiting if w.run_id is None and w.dispatch_key not in ended]
    if not fresh:
        return dg.SkipReason(f"No new request; {len(waiting)} open, {closed} closed as ended.")
    if closed_gate:
        # Nothing is lost by waiting here: the same key is asked for when the gate has opened.
        return dg.SkipReason(f"{len(fresh)} requests wait: {closed_gate.what_happened}.")
    known = set(context.instance.get_dynamic_partitions(listeners.name or ""))
    missing = sorted({w.user_id for w in fresh} - known)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                # Dagster starts one run per key, however often it is asked for.
                run_key=w.dispatch_key,
                partition_key=w.user_id,
                tags={TRIGGER: "request", DISPATCH_KEY: w.dispatch_key, PRIORITY: "10"},
            )
            for w in fresh
        ],
        dynamic_partitions_requests=[listeners.build_add_request(missing)] if missing else [],
    )


def _ended_runs(instance: dg.DagsterInstance, dispatch_keys: list[str]) -> dict[str, ErrorCode]:
    """The dispatch keys whose latest run has ended for good, with the code for a request left open.

    A run whose process died and that Dagster is about to start again has not: its next try answers.
    """
    ended = {}
    for key in dispatch_keys:
        records = instance.get_run_records(dg.RunsFilter(tags={DISPATCH_KEY: key}), limit=1)
        run = records[0].dagster_run if records else None
        if run and run.status in ENDED and not run.is_complete_and_waiting_to_retry:
            ended[key] = ENDED[run.status]
    return ended


SENSORS = [sync_request_sensor, partition_reconciler]
