"""What a tick of a schedule syncs."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.schedule_definition import ScheduleExecutionData

from spotify_pipeline.defs.schedules import SCHEDULES
from spotify_pipeline.domain.outcome import STEPS
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.defs.definitions_fixture import (
    StagedPipeline,
    materialized,
    staged_defs,
)
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

DAY = timedelta(days=1)
BY_NAME = {schedule.name: schedule for schedule in SCHEDULES}


def last_tick(hour: int) -> datetime:
    """The latest instant at which the clock in UTC showed this hour."""
    now = datetime.now(UTC)
    tick = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    return tick if tick <= now else tick - DAY


def evaluate(instance: dg.DagsterInstance, name: str, moment: datetime) -> list[dg.RunRequest]:
    """The runs that a tick asks for."""
    return list(tick_of(instance, name, moment).run_requests or [])


def tick_of(instance: dg.DagsterInstance, name: str, moment: datetime) -> ScheduleExecutionData:
    """What a tick asks for, or says instead."""
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=moment,
        resources={"pipeline": StagedPipeline()},
    ) as context:
        return BY_NAME[name].evaluate_tick(context)


def execute(instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """The run that was asked for."""
    return (
        staged_defs()
        .resolve_job_def(request.job_name or "sync_users")
        .execute_in_process(
            instance=instance,
            run_config=request.run_config,
            tags=request.tags,
            raise_on_error=False,
        )
    )


def users(scenario: Scenario) -> None:
    """Two active users, and four who are inactive, each for another reason."""
    scenario.connect("active")
    scenario.connect("expiring")
    for user_id in ("inactive", "disconnected", "needs_reauth", "stale"):
        scenario.connect(user_id)
    scenario.sync_well("inactive", "disconnected", "needs_reauth", "expiring", "stale")
    for user_id in ("expiring", "disconnected", "needs_reauth"):
        scenario.execute(
            "UPDATE spotify_pipeline.users SET connection = :c WHERE user_id = :u",
            u=user_id,
            c=user_id,
        )
    # Long ago authorized (but not yet expired), and nothing played for more than a week.
    scenario.execute(
        "UPDATE spotify_pipeline.user_tokens SET authorized_at = :at, expires_at = '2100-01-01'"
        " WHERE user_id IN ('inactive', 'stale')",
        at=scenario.clock() - 100 * DAY,
    )
    scenario.execute(
        "UPDATE spotify_pipeline.plays SET played_at = played_at - interval '8 days'"
        " WHERE user_id IN ('inactive', 'stale')"
    )
    scenario.simulator.forget_calls()


def test_the_nightly_tick_syncs_all_steps_of_exactly_the_active_users(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    users(scenario)
    (request,) = evaluate(instance, "nightly_sync", last_tick(3))
    assert "active" not in str(request.tags)
    scenario.at(scenario.clock() + DAY)
    result = execute(instance, request)
    assert result.success
    outcomes = {row["user_id"]: row["outcome"] for row in scenario.rows(t.sync_run_users)}
    assert outcomes == {"active": "synced", "expiring": "synced"}
    assert {call.user_id for call in scenario.calls()} == {"active", "expiring"}
    assert len(scenario.calls("top_tracks")) == 6
    assert {step for step, _ in materialized(instance, result.run_id)} == set(STEPS)


def test_the_same_tick_has_the_same_run_key(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    tick = last_tick(3)
    (first,) = evaluate(instance, "nightly_sync", tick)
    (again,) = evaluate(instance, "nightly_sync", tick)
    assert first.run_key == again.run_key
    assert first.run_key is not None


def test_a_poll_asks_for_the_plays_of_those_who_are_due(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    for user_id in ("due", "not due"):
        scenario.connect(user_id)
    scenario.sync_well("not due")
    scenario.simulator.forget_calls()
    now = datetime.now(UTC)
    tick = now.replace(minute=now.minute - now.minute % 15, second=0, microsecond=0)
    (request,) = evaluate(instance, "plays_poll", tick)
    assert execute(instance, request).success
    assert [(call.user_id, call.endpoint) for call in scenario.calls()] == [
        ("due", "token"),
        ("due", "me"),
        ("due", "recently_played"),
    ]
    assert scenario.minutes("due")


def test_the_weekly_tick_fetches_the_lists_of_all_eligible_users(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    users(scenario)
    scenario.at(scenario.clock() + DAY)
    (request,) = evaluate(instance, "weekly_top_refresh", last_tick(3))
    result = execute(instance, request)
    assert result.success
    assert {call.user_id for call in scenario.calls("top_artists")} == {
        "active",
        "expiring",
        "inactive",
        "stale",
    }
    assert scenario.calls("recently_played") == []


def why_skipped(instance: dg.DagsterInstance, name: str, moment: datetime) -> str:
    """What the tick says instead of asking for a run."""
    result = tick_of(instance, name, moment)
    assert not result.run_requests
    return result.skip_message or ""


def test_a_tick_without_work_is_skipped_with_the_reason(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    tick = last_tick(3)
    assert why_skipped(instance, "nightly_sync", tick) == "There is no user who is active."
    scenario.connect("anna")
    # Missed by more than a day, as after a week of sleep: the latest tick does it.
    assert "a later tick does its work" in why_skipped(instance, "nightly_sync", tick - DAY)
    (request,) = evaluate(instance, "nightly_sync", tick)
    run = instance.create_run_for_job(
        staged_defs().resolve_job_def("sync_users"),
        status=dg.DagsterRunStatus.STARTED,
        tags=request.tags,
    )
    assert why_skipped(instance, "nightly_sync", tick) == "The previous run is still going."
    # Another schedule's run is none of its business.
    assert evaluate(instance, "weekly_top_refresh", tick)
    instance.report_run_canceled(run)
    assert evaluate(instance, "nightly_sync", tick)
    scenario.pipeline.rate_limiter.blocked(3600, "QUOTA")
    assert why_skipped(instance, "nightly_sync", tick).startswith("No call can be made now")


def test_run_slots_are_reserved_for_requests_which_have_priority(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    queue = instance.get_concurrency_config().run_queue_config
    assert {
        "key": "spotify/trigger",
        "value": "scheduled",
        "limit": 2,
    } in queue.tag_concurrency_limits
    assert queue.max_concurrent_runs - 2 >= 2
    (request,) = evaluate(instance, "nightly_sync", last_tick(3))
    assert request.tags["spotify/trigger"] == "scheduled"
    assert int(request.tags["dagster/priority"]) < 0
    # A night may take as long as the calls of all users need.
    assert request.tags["dagster/max_runtime"] == "79200"


def test_dagster_starts_a_night_again_that_its_time_limit_ended(
    instance: dg.DagsterInstance,
) -> None:
    """Again means from failure: `test_a_retry_resumes_with_the_unfinished_chunks`."""
    run = instance.create_run_for_job(staged_defs().resolve_job_def("sync_users"))
    # As Dagster's run monitor does it.
    instance.report_run_canceling(run)
    instance.report_run_failed(run, "Exceeded maximum runtime of 79200 seconds.")
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert (ended.status.value, ended.tags["dagster/will_retry"]) == ("FAILURE", "true")


def test_the_schedules_have_the_names_that_the_readme_promises() -> None:
    assert set(BY_NAME) == {"nightly_sync", "plays_poll", "weekly_top_refresh", "health"}
