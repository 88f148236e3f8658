"""What runs by the clock, all in UTC."""

import dagster as dg

from spotify_pipeline.defs.jobs import sync_users
from spotify_pipeline.defs.tags import TRIGGER


@dg.schedule(
    job=sync_users,
    cron_schedule="0 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def nightly_sync(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Every active user, everything."""
    return dg.RunRequest(
        run_key=context.scheduled_execution_time.isoformat(),
        run_config={"ops": {"choose_users": {"config": {"selection": "active"}}}},
        tags={TRIGGER: "scheduled"},
    )


SCHEDULES = [nightly_sync]
