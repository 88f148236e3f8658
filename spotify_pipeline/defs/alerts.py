"""The sensor that alerts the operator: of failed runs in Dagster, and of what the rules count."""

from datetime import datetime

import dagster as dg

from spotify_pipeline.defs.resources import PipelineResource


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts counts of what is wrong to SPOTIFY_PIPELINE_ALERT_URL, if that is set.",
)
def alert_sensor(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
    """Posts counts of what is wrong to SPOTIFY_PIPELINE_ALERT_URL."""
    from spotify_pipeline.settings import load_settings
    from spotify_pipeline.sync.admin.alerts import notify_operator

    if load_settings().alert_url is None:
        return dg.SkipReason("SPOTIFY_PIPELINE_ALERT_URL is not set.")

    def failed_runs(since: datetime) -> int:
        failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
        return context.instance.get_runs_count(failed)

    with pipeline.opened() as opened:
        sent = notify_operator(opened, failed_runs)
    counts = ", ".join(f"{count} {event}" for event, count in sent.items())
    return dg.SkipReason(f"Alerted of {counts}." if sent else "Nothing is wrong.")
