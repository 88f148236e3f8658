"""The sensor of requests: one run for each, and requests closed when their run died."""

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from spotify_pipeline.defs.sensors import sync_request_sensor
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.defs.staging import StagedPipeline, staged_defs
from spotify_pipeline_tests.sync.stage import Stage

DISPATCH_KEY = "spotify/dispatch_key"


@pytest.fixture
def three(stage: Stage) -> Stage:
    """Anna, Ben and Cleo, registered and connected as far as the database knows."""
    for user_id in ("anna", "ben", "cleo"):
        stage.execute(
            "INSERT INTO spotify_pipeline.users (user_id, connection) VALUES (:u, 'connected')",
            u=user_id,
        )
    return stage


def ask(stage: Stage, *user_ids: str) -> None:
    """These people press Sync."""
    for user_id in user_ids:
        stage.execute("INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u)", u=user_id)


def tick(
    instance: dg.DagsterInstance, sensor: dg.SensorDefinition
) -> tuple[list[dg.RunRequest], list[object]]:
    """One evaluation: the runs it asks for, and the changes of partitions."""
    context = dg.build_sensor_context(instance=instance, resources={"pipeline": StagedPipeline()})
    result = sensor(context)
    if isinstance(result, dg.SkipReason):
        return [], []
    assert isinstance(result, dg.SensorResult)
    return list(result.run_requests or []), list(result.dynamic_partitions_requests or [])


def a_run(
    instance: dg.DagsterInstance, dispatch_key: str, status: Status, **tags: str
) -> dg.DagsterRun:
    """A run that Dagster made for a request, as far as it got."""
    return instance.create_run_for_job(
        staged_defs().resolve_job_def("sync_user"),
        status=status,
        tags={DISPATCH_KEY: dispatch_key, "dagster/partition": "anna", **tags},
    )


def closed(stage: Stage) -> dict[str, tuple[str, str | None]]:
    """Status and code of each person's request."""
    return {
        row["user_id"]: (row["status"], row["error_code"]) for row in stage.rows(t.sync_requests)
    }


def test_each_request_asks_for_one_run_on_its_users_partition(
    three: Stage, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("spotify_users", ["ben"])
    ask(three, "anna", "ben")
    runs, partitions = tick(instance, sync_request_sensor)
    assert [(run.run_key, run.partition_key) for run in runs] == [
        ("request-1-1", "anna"),
        ("request-2-1", "ben"),
    ]
    for run in runs:
        assert run.tags[DISPATCH_KEY] == run.run_key
        assert run.tags["spotify/trigger"] == "request"
        assert int(run.tags["dagster/priority"]) > 0
    (added,) = partitions
    assert isinstance(added, dg.AddDynamicPartitionsRequest)
    assert (added.partitions_def_name, added.partition_keys) == ("spotify_users", ["anna"])
    assert [row["dispatch_key"] for row in three.rows(t.sync_requests)] == [
        "request-1-1",
        "request-2-1",
    ]


def test_a_request_is_asked_for_under_the_same_key_until_its_run_has_begun(
    three: Stage, instance: dg.DagsterInstance
) -> None:
    """The daemon may die between the database and Dagster; Dagster runs a key once."""
    assert tick(instance, sync_request_sensor) == ([], [])
    ask(three, "anna")
    first, _ = tick(instance, sync_request_sensor)
    again, _ = tick(instance, sync_request_sensor)
    assert [run.run_key for run in first + again] == ["request-1-1"] * 2
    three.execute("UPDATE spotify_pipeline.sync_requests SET status = 'running', run_id = 'r'")
    a_run(instance, "request-1-1", Status.STARTED)
    assert tick(instance, sync_request_sensor)[0] == []
    assert closed(three) == {"anna": ("running", None)}
    assert three.rows(t.sync_requests)[0]["attempts"] == 1


def test_while_spotify_is_not_to_be_asked_requests_wait_and_then_each_gets_its_run(
    three: Stage, instance: dg.DagsterInstance
) -> None:
    three.execute(
        "UPDATE spotify_pipeline.api_budget"
        " SET blocked_until = now() + interval '1 hour', blocked_reason = 'QUOTA'"
    )
    ask(three, "anna", "ben")
    assert tick(instance, sync_request_sensor) == ([], [])
    assert tick(instance, sync_request_sensor) == ([], [])
    assert closed(three) == {"anna": ("queued", None), "ben": ("queued", None)}
    three.execute("UPDATE spotify_pipeline.api_budget SET blocked_until = now()")
    three.pipeline.gate.begin()  # as the gate of the next tick's own pipeline
    runs, _ = tick(instance, sync_request_sensor)
    assert [run.partition_key for run in runs] == ["anna", "ben"]


@pytest.mark.parametrize(
    ("status", "code"),
    [(Status.FAILURE, "CRASHED"), (Status.SUCCESS, "CRASHED"), (Status.CANCELED, "CANCELLED")],
)
def test_a_request_whose_run_ended_without_an_answer_is_closed(
    three: Stage, instance: dg.DagsterInstance, status: Status, code: str
) -> None:
    ask(three, "anna", "ben")
    tick(instance, sync_request_sensor)
    a_run(instance, "request-1-1", status)
    a_run(instance, "request-2-1", Status.NOT_STARTED)
    runs, _ = tick(instance, sync_request_sensor)
    assert closed(three) == {"anna": ("failed", code), "ben": ("queued", None)}
    assert [run.run_key for run in runs] == ["request-2-1"]
    assert tick(instance, sync_request_sensor)[0][0].run_key == "request-2-1"


def test_a_run_that_dagster_starts_again_still_answers_its_request(
    three: Stage, instance: dg.DagsterInstance
) -> None:
    ask(three, "anna")
    tick(instance, sync_request_sensor)
    three.execute("UPDATE spotify_pipeline.sync_requests SET status = 'running', run_id = 'r'")
    died = a_run(instance, "request-1-1", Status.FAILURE, **{"dagster/will_retry": "true"})
    tick(instance, sync_request_sensor)
    assert closed(three) == {"anna": ("running", None)}
    a_run(instance, "request-1-1", Status.STARTED)
    instance.add_run_tags(died.run_id, {"dagster/auto_retry_run_id": "the second"})
    tick(instance, sync_request_sensor)
    assert closed(three) == {"anna": ("running", None)}
    a_run(instance, "request-1-1", Status.FAILURE)
    tick(instance, sync_request_sensor)
    assert closed(three) == {"anna": ("failed", "CRASHED")}


def test_an_answer_is_not_overwritten_by_the_end_of_its_run(
    three: Stage, instance: dg.DagsterInstance
) -> None:
    ask(three, "anna")
    tick(instance, sync_request_sensor)
    three.execute("UPDATE spotify_pipeline.sync_requests SET status = 'succeeded'")
    a_run(instance, "request-1-1", Status.FAILURE)
    tick(instance, sync_request_sensor)
    assert closed(three) == {"anna": ("succeeded", None)}
