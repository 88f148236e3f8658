"""The sensor of requests: one run for each, and requests closed when their run died."""

import subprocess
import sys
import threading
from dataclasses import replace
from uuid import UUID

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from spotify_pipeline.defs import resources
from spotify_pipeline.defs.partitions import request_key
from spotify_pipeline.defs.sensors import sync_request_sensor
from spotify_pipeline.domain.quota import Quota
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import api_budget, sync_requests
from spotify_pipeline.sync.rate_limiter import SharedRateLimiter
from spotify_pipeline_tests.defs.definitions_fixture import definitions_of, evaluated, staged_defs
from spotify_pipeline_tests.storage.rows import sync_status
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

DISPATCH_KEY = ".dagster/spotify_dispatch_key"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that finds nothing to do does not wait for it."""
    monkeypatch.setattr(resources, "WAIT_SECONDS", 0)


@pytest.fixture
def three(scenario: Scenario) -> Scenario:
    """Anna, Ben and Cleo, registered and connected as far as the database knows."""
    for user_id in ("anna", "ben", "cleo"):
        scenario.execute(
            "INSERT INTO spotify_pipeline.users (user_id, connection) VALUES (:u, 'connected')",
            u=user_id,
        )
    return scenario


def ask(scenario: Scenario, *user_ids: str) -> None:
    """These users press Sync."""
    for user_id in user_ids:
        scenario.execute(
            "INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u)", u=user_id
        )


def tick(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """Evaluates the sensor once. Dagster stores its result, so it names no other user."""
    result = evaluated(sync_request_sensor, instance)
    if isinstance(result, dg.SkipReason):
        return []
    assert isinstance(result, dg.SensorResult)
    assert not result.dynamic_partitions_requests
    return list(result.run_requests or [])


def a_run(
    instance: dg.DagsterInstance, dispatch_key: str, status: Status, **tags: str
) -> dg.DagsterRun:
    """A run that Dagster made for a request, as far as it got."""
    return instance.create_run_for_job(
        staged_defs().resolve_job_def("sync_user"),
        status=status,
        tags={DISPATCH_KEY: dispatch_key, "dagster/partition": "anna", **tags},
    )


def key(scenario: Scenario, start: str) -> str:
    """The dispatch key that begins so; the rest of it is a UUID."""
    (found,) = {
        row["dispatch_key"]
        for row in scenario.rows(t.sync_requests)
        if (row["dispatch_key"] or "").startswith(f"{start}-")
    }
    return str(found)


def short(dispatch_key: str | None) -> str:
    """A dispatch key of one request without its UUID."""
    assert dispatch_key is not None
    assert UUID(dispatch_key[-36:]).version == 4
    return dispatch_key[:-37]


def start(scenario: Scenario, dispatch_key: str, run_id: str) -> None:
    """What a run does first."""
    with scenario.pipeline.engine.begin() as conn:
        sync_requests.start(conn, dispatch_key, run_id)


def let_the_pause_pass(scenario: Scenario) -> None:
    scenario.execute(
        "UPDATE spotify_pipeline.sync_requests SET not_before = now() WHERE not_before IS NOT NULL"
    )


def closed(scenario: Scenario) -> dict[str, tuple[str, str | None]]:
    """Status and code of each user's request."""
    return {
        row["user_id"]: (row["status"], row["error_code"]) for row in scenario.rows(t.sync_requests)
    }


TICKS = """
import datetime, sys
import dagster as dg
from spotify_pipeline.defs import resources
from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.defs.schedules import SCHEDULES
from spotify_pipeline.defs.sensors import SENSORS
from spotify_pipeline.settings import load_settings

resources.WAIT_SECONDS = 0
given = {"pipeline": resources.PipelineResource()}
with opened_instance(load_settings()) as instance:
    for sensor in SENSORS:
        with dg.build_sensor_context(instance=instance, resources=given) as context:
            sensor(context)
    for schedule in SCHEDULES:
        now = datetime.datetime.now(datetime.UTC)
        with dg.build_schedule_context(
            instance=instance, scheduled_execution_time=now, resources=given
        ) as context:
            schedule.evaluate_tick(context)
print({"numpy", "pandas"} & sys.modules.keys())
"""


def test_ticks_import_no_pandas(three: Scenario) -> None:
    """The code server evaluates them, and pandas takes 40 MB there."""
    ask(three, "anna")
    said = subprocess.run([sys.executable, "-c", TICKS], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
    assert key(three, "request-1-1")


def test_each_request_asks_for_one_run_on_its_users_partition(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("spotify_users", ["ben"])
    ask(three, "anna", "ben")
    runs = tick(instance)
    assert [(short(run.run_key), run.partition_key) for run in runs] == [
        ("request-1-1", "anna"),
        ("request-2-1", "ben"),
    ]
    for run in runs:
        assert run.tags[DISPATCH_KEY] == run.run_key
        assert run.tags["spotify/trigger"] == "request"
        assert int(run.tags["dagster/priority"]) > 0
        assert run.tags["dagster/max_retries"] == "0"
    assert sorted(instance.get_dynamic_partitions("spotify_users")) == ["anna", "ben"]
    assert [row["dispatch_key"] for row in three.rows(t.sync_requests)] == [
        run.run_key for run in runs
    ]


def test_requests_wait_during_a_block_and_then_each_gets_its_run(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    three.execute(
        "UPDATE spotify_pipeline.api_budget"
        " SET blocked_until = now() + interval '1 hour', blocked_reason = 'QUOTA'"
    )
    ask(three, "anna", "ben")
    assert tick(instance) == []
    assert tick(instance) == []
    assert closed(three) == {"anna": ("queued", None), "ben": ("queued", None)}
    three.execute("UPDATE spotify_pipeline.api_budget SET blocked_until = now()")
    three.pipeline.rate_limiter.begin()  # as the rate limiter of the next tick's own pipeline
    runs = tick(instance)
    assert [run.partition_key for run in runs] == ["anna", "ben"]


def test_requests_that_wait_for_our_own_limit_of_the_day_are_shown_as_blocked(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    engine, one_call = three.pipeline.engine, Quota(calls_per_window=0, calls_per_day=1)
    with engine.begin() as conn:
        assert api_budget.take(conn, one_call, "request") is None
    ask(three, "anna")
    with definitions_of(replace(three.pipeline, rate_limiter=SharedRateLimiter(engine, one_call))):
        assert tick(instance) == []
        with engine.connect() as conn:
            assert sync_status(conn, "anna").state == "blocked"
    tick(instance)
    with engine.connect() as conn:
        assert sync_status(conn, "anna").state == "queued"


@pytest.mark.parametrize("status", [Status.FAILURE, Status.SUCCESS])
@pytest.mark.parametrize("begun", [True, False])
def test_a_request_whose_run_ended_without_an_answer_is_tried_again_under_a_new_key(
    three: Scenario, instance: dg.DagsterInstance, status: Status, begun: bool
) -> None:
    ask(three, "anna", "ben")
    tick(instance)
    run = a_run(instance, key(three, "request-1-1"), status)
    a_run(instance, key(three, "request-2-1"), Status.STARTING)
    if begun:
        start(three, key(three, "request-1-1"), run.run_id)
    assert tick(instance) == []
    assert closed(three) == {"anna": ("queued", None), "ben": ("queued", None)}
    assert three.rows(t.sync_requests, "anna")[0]["not_before"] is not None
    let_the_pause_pass(three)
    runs = tick(instance)
    assert [short(run.run_key) for run in runs] == ["request-1-2"]


def test_the_third_crash_is_final(three: Scenario, instance: dg.DagsterInstance) -> None:
    ask(three, "anna")
    for attempt in (1, 2, 3):
        runs = tick(instance)
        assert [short(run.run_key) for run in runs] == [f"request-1-{attempt}"]
        a_run(instance, key(three, f"request-1-{attempt}"), Status.FAILURE)
        tick(instance)
        let_the_pause_pass(three)
    assert closed(three) == {"anna": ("failed", "CRASHED")}
    assert tick(instance) == []


def test_a_request_whose_run_was_cancelled_is_not_tried_again(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    """Before it began, too."""
    ask(three, "anna", "ben")
    tick(instance)
    start(
        three,
        key(three, "request-1-1"),
        a_run(instance, key(three, "request-1-1"), Status.CANCELED).run_id,
    )
    a_run(instance, key(three, "request-2-1"), Status.CANCELED)
    tick(instance)
    assert set(closed(three).values()) == {("failed", "CANCELLED")}


def test_a_request_whose_run_was_deleted_is_tried_again(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    ask(three, "anna", "ben")
    tick(instance)
    begun, queued = (a_run(instance, key(three, f"request-{n}-1"), Status.STARTED) for n in (1, 2))
    start(three, key(three, "request-1-1"), begun.run_id)
    for run in (begun, queued):
        instance.delete_run(run.run_id)
    runs = tick(instance)
    # Ben's never began, so it is asked for under the same key; Anna's did, and may be alive.
    assert [short(run.run_key) for run in runs] == ["request-2-1"]
    let_the_pause_pass(three)
    runs = tick(instance)
    assert [short(run.run_key) for run in runs] == ["request-2-1", "request-1-2"]


def test_a_run_from_before_a_restore_does_not_answer_a_new_request(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    ask(three, "anna")
    (before,) = tick(instance)
    assert before.run_key is not None
    a_run(instance, before.run_key, Status.SUCCESS)
    # A dump from before the request, restored: ids and attempts begin anew, Dagster's runs stay.
    three.execute("TRUNCATE spotify_pipeline.sync_requests RESTART IDENTITY")
    ask(three, "anna")
    (after,) = tick(instance)
    assert after.run_key != before.run_key
    assert (short(before.run_key), short(after.run_key)) == ("request-1-1", "request-1-1")
    tick(instance)
    assert closed(three) == {"anna": ("queued", None)}
    assert three.rows(t.sync_requests, "anna")[0]["dispatch_key"] == after.run_key


@pytest.mark.parametrize("status", [None, Status.NOT_STARTED])
def test_a_run_that_was_never_created_or_never_submitted_is_asked_for_until_it_is(
    three: Scenario, instance: dg.DagsterInstance, status: Status | None
) -> None:
    """The daemon may die between the database and Dagster; Dagster runs a key once."""
    ask(three, "anna")
    tick(instance)
    if status:
        a_run(instance, key(three, "request-1-1"), status)
    for _ in range(3):
        runs = tick(instance)
        assert [short(run.run_key) for run in runs] == ["request-1-1"]
    a_run(instance, key(three, "request-1-1"), Status.STARTING)
    assert tick(instance) == []
    assert three.rows(t.sync_requests)[0]["attempts"] == 1


def test_an_answer_is_not_overwritten_by_the_end_of_its_run(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    ask(three, "anna")
    tick(instance)
    three.execute("UPDATE spotify_pipeline.sync_requests SET status = 'succeeded'")
    a_run(instance, key(three, "request-1-1"), Status.FAILURE)
    tick(instance)
    assert closed(three) == {"anna": ("succeeded", None)}


def test_five_hundred_requests_are_one_run_that_names_no_user(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.execute(
        "INSERT INTO spotify_pipeline.users (user_id, connection)"
        " SELECT 'secret' || n, 'connected' FROM generate_series(1, 500) AS n"
    )
    scenario.execute(
        "INSERT INTO spotify_pipeline.sync_requests (user_id)"
        " SELECT user_id FROM spotify_pipeline.users"
    )
    (run,) = tick(instance)
    assert (run.job_name, run.partition_key) == ("sync_users", None)
    assert run.run_key is not None
    assert run.run_key.startswith("batch-")
    assert run.tags["dagster/max_retries"] == "0"
    assert "secret" not in str(run)
    assert {row["dispatch_key"] for row in scenario.rows(t.sync_requests)} == {run.run_key}
    a_run(instance, run.run_key, Status.FAILURE)
    assert tick(instance) == []
    let_the_pause_pass(scenario)
    (again,) = tick(instance)
    assert again.run_key != run.run_key
    assert {row["attempts"] for row in scenario.rows(t.sync_requests)} == {2}


def test_the_runs_of_a_flood_come_one_by_one_and_give_way_to_later_requests(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    three.execute(
        "INSERT INTO spotify_pipeline.users (user_id, connection)"
        " SELECT 'flood' || n, 'connected' FROM generate_series(1, 1200) AS n"
    )
    three.execute(
        "INSERT INTO spotify_pipeline.sync_requests (user_id)"
        " SELECT user_id FROM spotify_pipeline.users WHERE user_id LIKE 'flood%'"
    )
    flood = tick(instance)
    ask(three, "anna")
    (later,) = (run for run in tick(instance) if run.partition_key == "anna")
    priorities = [int(run.tags["dagster/priority"]) for run in (*flood, later)]
    assert priorities == [10, 9, 8, 10]
    assert [run.tags.get("spotify/requests") for run in (*flood, later)] == ["many"] * 3 + [None]


def test_a_flood_leaves_a_run_slot_to_single_requests(instance: dg.DagsterInstance) -> None:
    queue = instance.get_concurrency_config().run_queue_config
    limits = {limit["value"]: limit["limit"] for limit in queue.tag_concurrency_limits[1:]}
    assert set(limits) == {"scheduled", "upload", "many"}
    assert limits["many"] == 1
    assert sum(limits.values()) < queue.max_concurrent_runs


def test_a_tick_reports_counts(three: Scenario, instance: dg.DagsterInstance) -> None:
    ask(three, "anna", "ben")
    tick(instance)
    a_run(instance, key(three, "request-1-1"), Status.CANCELED)
    a_run(instance, key(three, "request-2-1"), Status.FAILURE)
    said = evaluated(sync_request_sensor, instance)
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == (
        "1 request of crashed runs tried again, 1 request of cancelled runs cancelled, "
        "2 requests in progress."
    )


def test_a_tick_waits_for_a_request_and_takes_it_at_once(
    three: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "WAIT_SECONDS", 60)
    later = threading.Timer(0.3, ask, [three, "anna"])
    later.start()
    runs = tick(instance)
    later.join()
    assert [run.partition_key for run in runs] == ["anna"]


def test_a_waiting_tick_ends_when_the_code_server_does(
    three: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "LONG_WAIT_SECONDS", 60)
    monkeypatch.setattr(resources, "ending", ending := threading.Event())
    later = threading.Timer(0.3, ending.set)
    later.start()
    assert tick(instance) == []
    later.join()


def test_re_executing_a_run_in_the_ui_syncs_and_answers_no_request(
    three: Scenario, instance: dg.DagsterInstance
) -> None:
    run = a_run(instance, "request-1-1", Status.FAILURE)
    again = run.with_tags(run.tags)._replace(root_run_id=run.run_id, parent_run_id=run.run_id)
    assert (request_key(run), request_key(again)) == ("request-1-1", None)
