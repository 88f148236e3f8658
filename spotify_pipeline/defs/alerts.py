"""The sensor that alerts the operator: failed runs of Dagster, and what the database says."""

from datetime import datetime

import dagster as dg

from spotify_pipeline.defs.resources import PipelineResource


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def alert_sensor(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
    """Tells SPOTIFY_PIPELINE_ALERT_URL in counts what has to be looked at."""
    from spotify_pipeline.settings import load_settings
    from spotify_pipeline.sync.admin.alerts import notify_operator

    if load_settings().alert_url is None:
        return dg.SkipReason("SPOTIFY_PIPELINE_ALERT_URL is not set.")

    def failed_runs(since: datetime) -> int:
        failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
        return context.instance.get_runs_count(failed)

    with pipeline.opened() as opened:
        told = notify_operator(opened, failed_runs)
    told_of = ", ".join(f"{count} {event}" for event, count in told.items())
    return dg.SkipReason(f"Told: {told_of}." if told else "Nothing to tell.")
