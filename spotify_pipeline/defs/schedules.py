"""The schedules, all in UTC. Each skips its tick when a run would have nothing to do."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from spotify_pipeline.defs.jobs import health, sync_users
from spotify_pipeline.defs.partitions import MAX_RUNTIME, PRIORITY, SCHEDULE, TRIGGER
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    MUSIC_PERSONALITY,
    PROFILE_REVALIDATION,
    RECENTLY_PLAYED,
    STEPS,
    TOP_ARTISTS,
    TOP_TRACKS,
)

PLAYS = [RECENTLY_PLAYED, DAILY_LISTENING, MUSIC_PERSONALITY, PROFILE_REVALIDATION]
TOPS = [*TOP_ARTISTS, *TOP_TRACKS, MUSIC_PERSONALITY, PROFILE_REVALIDATION]

IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def _sync_schedule(
    name: str, cron: str, interval: timedelta, selection: str, steps: list[str], description: str
) -> dg.ScheduleDefinition:
    """A schedule that starts `sync_users`, or skips the tick with a reason."""
    # At 90 calls in 30 seconds the 2 hours of dagster.yaml serve some 2,700 users.
    longest = {MAX_RUNTIME: str(22 * 3600)} if interval >= timedelta(days=1) else {}

    @dg.schedule(
        name=name,
        job=sync_users,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, pipeline: PipelineResource
    ) -> dg.RunRequest | dg.SkipReason:
        reason = _missed(context, interval) or _in_progress(context, name)
        reason = reason or _nothing_to_do(pipeline, selection, steps)
        if reason:
            return dg.SkipReason(reason)
        return dg.RunRequest(
            run_key=context.scheduled_execution_time.isoformat(),
            run_config=_run_config(selection, steps),
            # Below sync requests: a user waits for those.
            tags={TRIGGER: "scheduled", SCHEDULE: name, PRIORITY: "-10", **longest},
        )

    return schedule


def _run_config(selection: str, steps: list[str]) -> dict[str, Any]:
    return {
        "ops": {
            "choose_users": {"config": {"selection": selection}},
            "sync_chunk": {"config": {"steps": steps, "scheduled": True}},
        }
    }


def _missed(context: dg.ScheduleEvaluationContext, interval: timedelta) -> str | None:
    """Why to skip a tick whose next tick is already due; None to run it.

    Dagster may retry a failed tick late, when a later tick has already done its work.
    """
    late = datetime.now(UTC) - context.scheduled_execution_time
    return f"Missed by {late}: a later tick does its work." if late >= interval else None


def _in_progress(context: dg.ScheduleEvaluationContext, name: str) -> str | None:
    runs = context.instance.get_run_records(
        dg.RunsFilter(tags={SCHEDULE: name}, statuses=IN_PROGRESS), limit=1
    )
    return "The previous run is still going." if runs else None


def _nothing_to_do(pipeline: PipelineResource, selection: str, steps: list[str]) -> str | None:
    from spotify_pipeline.sync.runs import skip_reason

    with pipeline.opened() as opened:
        return skip_reason(opened, selection, steps)


nightly_sync = _sync_schedule(
    "nightly_sync",
    "0 3 * * *",
    timedelta(days=1),
    "active",
    list(STEPS),
    "Syncs all assets of every active user.",
)

plays_poll = _sync_schedule(
    "plays_poll",
    "*/15 * * * *",
    timedelta(minutes=15),
    "due",
    PLAYS,
    "Fetches the plays of users who are due, and rebuilds what is computed from plays.",
)

weekly_top_refresh = _sync_schedule(
    "weekly_top_refresh",
    "0 3 * * 1",
    timedelta(days=7),
    "eligible",
    TOPS,
    "Fetches the top lists of every eligible user.",
)


@dg.schedule(
    name="health",
    job=health,
    cron_schedule="30 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Checks the record of all users and does its upkeep, every hour at half past.",
)
def health_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Starts the hourly job: maintenance, deletion of old logs and runs, asset checks."""
    reason = _missed(context, timedelta(hours=1))
    if reason:
        return dg.SkipReason(reason)
    return dg.RunRequest(
        run_key=context.scheduled_execution_time.isoformat(), tags={TRIGGER: "scheduled"}
    )


SCHEDULES = [nightly_sync, plays_poll, weekly_top_refresh, health_schedule]
