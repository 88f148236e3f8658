"""With a real code server, webserver and daemon: hundreds of users in one run."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.scheduler.instigation import (
    InstigatorState,
    ScheduleInstigatorData,
    TickStatus,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.outcome import REBUILT, RECENTLY_PLAYED
from spotify_pipeline.simulator.faults.refusals import Forbidden, ServerError
from spotify_pipeline.simulator.faults.wire import Truncated
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.crashes import oracle
from spotify_pipeline_tests.defs.dagster_cluster import SECONDS, DagsterCluster, stop_schedules
from spotify_pipeline_tests.defs.definitions_fixture import materialized
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

pytestmark = [pytest.mark.xdist_group("daemon"), pytest.mark.timeout(400)]

PEOPLE = [f"listener-{number:03}" for number in range(300)]
POLL = "plays_poll"


def test_a_late_tick_syncs_three_hundred_users_with_seven_kinds_of_failure(
    cluster: DagsterCluster,
) -> None:
    scenario, instance = cluster.scenario, cluster.instance
    since = (datetime.now(UTC) - timedelta(days=3)).date()
    for user_id in PEOPLE:
        scenario.connect(user_id, since=since, kind="light")
    failing = make_fail(scenario)
    before = scenario.simulator.now()
    cluster.start_schedule(POLL)
    sleep_long(instance)
    cluster.kill("daemon")
    run_id = await_run(cluster)
    stop_schedules(cluster.stack)
    noted = {row["user_id"]: row for row in scenario.rows(t.sync_run_users)}
    assert noted.keys() == {*PEOPLE}
    assert {user_id: row["error_code"] for user_id, row in noted.items() if row["error_code"]} == (
        failing
    )
    assert Counter(row["outcome"] for row in noted.values()) == {"synced": 293, "failed": 7}
    # Seven failures are explained: to the user, and on their partition.
    for user_id, code in failing.items():
        state = scenario.row(t.sync_state, user_id)
        assert state["last_error_code"] == code
        assert state["last_error_message"].startswith(WHAT_TO_DO[ErrorCode(code)])
    check = dg.AssetCheckKey(dg.AssetKey(RECENTLY_PLAYED), "user_sync_ok")
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=1000)
    mark_recovered = {
        evaluation.partition: evaluation.status
        for evaluation in history
        if evaluation.run_id == run_id
    }
    # To connect again is up to the user, and fails no check.
    passed, failed = (AssetCheckExecutionRecordStatus[name] for name in ("SUCCEEDED", "FAILED"))
    assert mark_recovered == {
        user_id: passed if code == "RECONNECT" else failed for user_id, code in failing.items()
    }
    # 293 are right.
    compare(scenario, {*PEOPLE} - failing.keys(), before)
    # Of the ticks that were slept through only the last was made up for.
    ticks = instance.get_ticks(*selector(instance), limit=10)
    assert Counter(tick.status for tick in ticks)[TickStatus.SUCCESS] == 1
    assert len(ticks) <= 2


def make_fail(scenario: Scenario) -> dict[str, str]:
    """Seven users fail, each in another way; returns their codes."""
    revoked, stranger, unscoped, down, cut, other_app, wrong_seal = PEOPLE[7::42][:7]
    simulator = scenario.simulator
    simulator.revoke(revoked)
    simulator.add_fault(Forbidden("not_allowlisted"), user_id=stranger)
    simulator.add_fault(Forbidden("scope"), user_id=unscoped)
    simulator.add_fault(ServerError(), user_id=down)
    simulator.add_fault(Truncated(), user_id=cut, endpoint="recently_played")
    scenario.hand_over(other_app, "a token", client_id="another app")
    # Sealed for another user.
    scenario.execute(
        "UPDATE spotify_pipeline.user_tokens SET sealed_refresh_token ="
        " (SELECT sealed_refresh_token FROM spotify_pipeline.user_tokens WHERE user_id = :other)"
        " WHERE user_id = :u",
        u=wrong_seal,
        other=PEOPLE[0],
    )
    return {
        revoked: "RECONNECT",
        stranger: "NOT_ALLOWLISTED",
        unscoped: "MISSING_SCOPE",
        down: "SPOTIFY_UNAVAILABLE",
        cut: "BAD_RESPONSE",
        other_app: "CLIENT_MISMATCH",
        wrong_seal: "INTERNAL",
    }


def compare(scenario: Scenario, user_ids: set[str], before: datetime) -> None:
    """Their plays are the simulator's, their days those of their plays, counted anew."""
    stored = oracle.read(scenario.pipeline.engine)
    plays = defaultdict(set)
    for heard in stored.plays:
        plays[heard.user_id].add((heard.played_at, heard.track_id))
    for user_id in user_ids:
        ledger = scenario.simulator.ledger(user_id)
        served = {(play.played_at, play.track_id) for play in ledger}
        owed = [
            play
            for play in ledger
            if play.published_at <= before and play.played_at > before - timedelta(days=7)
        ][-40:]  # of 50: each play that ends before the fetch pushes the oldest out
        assert {(play.played_at, play.track_id) for play in owed} <= plays[user_id] <= served
    assert sum(map(len, plays.values())) > len(user_ids)
    zones = dict.fromkeys(PEOPLE, "UTC")
    assert oracle.differing_days(stored.days, oracle.recount(stored.plays, zones)) == []


def states(instance: dg.DagsterInstance) -> list[InstigatorState]:
    """What Dagster keeps of the schedule."""
    return [state for state in instance.all_instigator_state() if state.name == POLL]


def selector(instance: dg.DagsterInstance) -> tuple[str, str]:
    """How Dagster names the schedule when it is asked for its ticks."""
    (state,) = states(instance)
    return state.instigator_origin_id, state.selector_id


def sleep_long(instance: dg.DagsterInstance) -> None:
    """As if no daemon had looked at the schedule for an hour; the next one sees it so."""
    (state,) = states(instance)
    now = datetime.now(UTC).timestamp()
    instance.purge_ticks(*selector(instance), before=now)
    data = state.instigator_data
    assert isinstance(data, ScheduleInstigatorData)
    slept = ScheduleInstigatorData(data.cron_schedule, now - 3600)
    instance.update_instigator_state(state.with_data(slept))


def await_run(cluster: DagsterCluster) -> str:
    """The id of the schedule's run, when it has ended."""
    of_schedule = dg.RunsFilter(tags={".dagster/spotify_schedule": POLL})

    def ended() -> list[str]:
        records = cluster.instance.get_run_records(of_schedule)
        return [record.dagster_run.run_id for record in records if record.end_time is not None]

    cluster.stack.wait(2 * SECONDS, lambda: bool(ended()), "the run of the schedule")
    (run_id,) = ended()
    return run_id


REBUILD = """
    mutation ($params: LaunchBackfillParams!) {
      launchPartitionBackfill(backfillParams: $params) {
        __typename
        ... on LaunchBackfillSuccess { backfillId }
        ... on PythonError { message }
      }
    }"""


def test_days_of_many_are_rebuilt_in_one_run_without_a_call(cluster: DagsterCluster) -> None:
    scenario, instance = cluster.scenario, cluster.instance
    names = [f"rebuilt-{number:02}" for number in range(12)]
    since = (datetime.now(UTC) - timedelta(days=3)).date()
    for user_id in names:
        scenario.connect(user_id, since=since)
    scenario.clock.instant = datetime.now(UTC)
    scenario.sync_well(*names, steps=[RECENTLY_PLAYED, *REBUILT])
    instance.add_dynamic_partitions("spotify_users", names)
    gone, left = names[5], {*names} - {names[5]}
    right = days_of(scenario, left)
    scenario.execute("UPDATE spotify_pipeline.daily_listening SET minutes = 0, plays = 0")
    scenario.forget(gone)
    calls = len(scenario.calls())
    selected = {
        "partitionNames": names,
        "assetSelection": [{"path": [step]} for step in REBUILT],
    }
    answer = cluster.graphql(REBUILD, params=selected)["launchPartitionBackfill"]
    backfill_id = answer["backfillId"]

    def done() -> bool:
        backfill = instance.get_backfill(backfill_id)
        return backfill is not None and backfill.status in BULK_ACTION_TERMINAL_STATUSES

    cluster.stack.wait(SECONDS, done, "the backfill")
    of_backfill = dg.RunsFilter(tags={"dagster/backfill": backfill_id})
    (record,) = instance.get_run_records(of_backfill)
    assert record.dagster_run.status is dg.DagsterRunStatus.SUCCESS
    shown = materialized(instance, record.dagster_run.run_id)
    assert shown.keys() == {(step, user_id) for step in REBUILT for user_id in left}
    assert days_of(scenario, left) == right
    assert len(scenario.calls()) == calls


def days_of(scenario: Scenario, user_ids: set[str]) -> list[dict[str, Any]]:
    """Their days, but for the time at which they were computed."""
    days = scenario.rows(t.daily_listening)
    return [day | {"computed_at": None} for day in days if day["user_id"] in user_ids]
