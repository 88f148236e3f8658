"""Many users in one run: the job sync_users, its reports, and its second try after a crash."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from sqlalchemy.exc import OperationalError

from spotify_pipeline.defs import jobs
from spotify_pipeline.defs.instance.event_batches import store_materializations
from spotify_pipeline.defs.jobs import ChunkNumbers, sync_users
from spotify_pipeline.defs.partitions import DISPATCH_KEY
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.outcome import DAILY_LISTENING, RECENTLY_PLAYED, STEPS
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import sync_requests
from spotify_pipeline.sync import runs
from spotify_pipeline_tests.defs.definitions_fixture import (
    StagedPipeline,
    failure_of,
    key,
    materialize,
    materialized,
    staged_defs,
)
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

CHUNKS_OF_TWO = {"ops": {"choose_users": {"config": {"selection": "eligible", "chunk_size": 2}}}}


def run(
    instance: dg.DagsterInstance, config: Mapping[str, Any] = CHUNKS_OF_TWO, **tags: str
) -> dg.ExecuteInProcessResult:
    """The job sync_users."""
    job = staged_defs().resolve_job_def("sync_users")
    return job.execute_in_process(
        instance=instance, run_config=config, tags=tags, raise_on_error=False
    )


def outcomes(scenario: Scenario, run_id: str | None = None) -> dict[str, str | None]:
    """What sync_run_users says of the users (of a run)."""
    return {
        row["user_id"]: row["outcome"]
        for row in scenario.rows(t.sync_run_users)
        if run_id in (None, row["run_id"])
    }


def numbers_of(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    """What report_run shows, on its output or on its failure."""
    for event in result.all_events:
        if event.step_key == "report_run":
            if event.is_successful_output:
                return {
                    name: reported.value
                    for name, reported in event.step_output_data.metadata.items()
                }
            if event.is_step_failure:
                failure = event.step_failure_data.user_failure_data
                return {name: reported.value for name, reported in failure.metadata.items()}
    return {}


@pytest.fixture
def five(scenario: Scenario) -> Scenario:
    """Five users, in three chunks of two."""
    for user_id in ("anna", "ben", "cleo", "dora", "emil"):
        scenario.connect(user_id)
    return scenario


def test_all_users_are_synced_in_chunks_and_materialized(
    five: Scenario, instance: dg.DagsterInstance
) -> None:
    result = run(instance)
    assert result.success
    names = {"anna", "ben", "cleo", "dora", "emil"}
    assert outcomes(five, result.run_id) == dict.fromkeys(names, "synced")
    assert {row["user_id"] for row in five.rows(t.plays)} == names
    assert set(materialized(instance)) == {(step, name) for step in STEPS for name in names}
    numbers = numbers_of(result)
    slowest = str(numbers.pop("slowest chunk"))
    assert re.fullmatch(r"[012]: \d+\.\d s", slowest)
    assert numbers == {
        "users synced": 5,
        "new plays": 250,
        # Refreshing a token is no call to the API.
        "API calls": len(five.calls()) - len(five.calls("token")),
        "seconds throttled": 0.0,
        "who": f"spotify-pipeline users list --run {result.run_id}",
    }
    # Seven for what is shown, and one for whose account it is.
    assert numbers["API calls"] == 40
    steps = {event.step_key for event in result.all_events if event.is_step_success}
    assert steps == {"choose_users", *(f"sync_chunk[{n}]" for n in range(3)), "report_run"}


def test_only_what_changed_is_shown_again(five: Scenario, instance: dg.DagsterInstance) -> None:
    run(instance)
    moment = five.clock() + timedelta(minutes=1)
    five.serve_plays("ben", [(moment, "new")])
    five.clock.instant = moment
    result = run(instance)
    assert result.success
    shown = materialized(instance, result.run_id)
    assert {user_id for _, user_id in shown} == {"ben"}
    assert {step for step, _ in shown} >= {RECENTLY_PLAYED, DAILY_LISTENING}
    assert shown[RECENTLY_PLAYED, "ben"]["new rows"] == 1


def test_a_failed_user_leaves_other_users_correct_and_is_counted(
    five: Scenario, instance: dg.DagsterInstance
) -> None:
    five.simulator.revoke("ben")
    five.simulator.add_fault(ServerError(), user_id="cleo")
    result = run(instance)
    assert not result.success
    failed = {"ben": "failed", "cleo": "failed"}
    done = dict.fromkeys(("anna", "dora", "emil"), "synced")
    assert outcomes(five) == done | failed
    assert {user_id for _, user_id in materialized(instance)} == set(done)
    said = failure_of(result)
    assert "RECONNECT" not in said
    assert "1 SPOTIFY_UNAVAILABLE" in said
    numbers = numbers_of(result)
    assert {
        name: number for name, number in numbers.items() if name.startswith(("users", "f"))
    } == {
        "users synced": 3,
        "users failed": 2,
        "failed RECONNECT": 1,
        "failed SPOTIFY_UNAVAILABLE": 1,
    }
    assert numbers["new plays"] == 150
    assert str(numbers["who"]) in said


def user_sync_ok(instance: dg.DagsterInstance) -> dict[str | None, tuple[bool, str | None]]:
    """The latest evaluation on each partition: whether it passed, and the code."""
    key = dg.AssetCheckKey(dg.AssetKey(RECENTLY_PLAYED), "user_sync_ok")
    found: dict[str | None, tuple[bool, str | None]] = {}
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=1000):
        assert record.event is not None
        assert record.event.dagster_event is not None
        evaluation = record.event.dagster_event.asset_check_evaluation_data
        code = evaluation.metadata.get("error_code")
        reported = (evaluation.passed, str(code.value) if code else None)
        found.setdefault(evaluation.partition, reported)
    return found


def test_the_check_of_a_user_is_evaluated_when_a_sync_fails_and_when_it_recovers(
    five: Scenario, instance: dg.DagsterInstance
) -> None:
    fault = five.simulator.add_fault(ServerError(), user_id="cleo")
    five.simulator.revoke("ben")
    run(instance)
    failing = {"ben": (True, "RECONNECT"), "cleo": (False, "SPOTIFY_UNAVAILABLE")}
    assert user_sync_ok(instance) == failing
    five.simulator.clear_faults(fault)
    run(instance)
    assert user_sync_ok(instance) == failing | {"cleo": (True, None)}
    # The run of a single user reports the same.
    five.simulator.add_fault(ServerError(), user_id="anna")
    assert not materialize(instance, "anna").success
    assert user_sync_ok(instance)["anna"] == (False, "SPOTIFY_UNAVAILABLE")
    five.simulator.clear_faults()
    assert materialize(instance, "anna").success
    assert user_sync_ok(instance)["anna"] == (True, None)


def test_a_user_who_has_to_reconnect_is_a_sentence_on_every_asset_of_their_partition(
    five: Scenario, instance: dg.DagsterInstance
) -> None:
    run(instance)
    five.simulator.revoke("ben")
    result = run(instance)
    assert result.success
    seen = [
        event.asset_observation_data.asset_observation
        for event in result.all_events
        if event.is_asset_observation
    ]
    assert {observation.partition for observation in seen} == {"ben"}
    assert {observation.asset_key for observation in seen} == {key(step) for step in STEPS}
    (sentence,) = {observation.description for observation in seen}
    assert str(sentence).startswith(WHAT_TO_DO[ErrorCode.RECONNECT])
    # Chosen no more, so nothing is repeated.
    assert not any(event.is_asset_observation for event in run(instance).all_events)


def test_no_user_is_named_but_on_their_partition(
    five: Scenario, instance: dg.DagsterInstance
) -> None:
    five.simulator.revoke("ben")
    five.forget("emil")
    result = run(instance)
    record = instance.get_run_by_id(result.run_id)
    assert record is not None
    names = ("anna", "ben", "cleo", "dora", "emil")

    def named(text: object) -> list[str]:
        return [name for name in names if name in str(text)]

    assert named(record.run_config) + named(record.tags) == []
    for entry in instance.all_logs(result.run_id):
        event = entry.dagster_event
        if event and event.is_step_materialization:
            reported = event.step_materialization_data.materialization
            assert named(reported._replace(partition=None)) == []
        elif event and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            assert named((found.description, found.metadata)) == []
        elif event and event.is_asset_observation:
            seen = event.asset_observation_data.asset_observation
            assert named((seen.description, seen.metadata)) == []
        else:
            assert named(entry) == [], entry


def test_a_run_without_users_succeeds(scenario: Scenario, instance: dg.DagsterInstance) -> None:
    assert run(instance).success


def test_a_chunk_syncs_only_the_configured_steps(
    five: Scenario, instance: dg.DagsterInstance
) -> None:
    config = {
        "ops": {
            "choose_users": {"config": {"selection": "eligible"}},
            "sync_chunk": {"config": {"steps": [RECENTLY_PLAYED]}},
        }
    }
    assert run(instance, config).success
    assert {step for step, _ in materialized(instance)} == {RECENTLY_PLAYED}
    assert {call.endpoint for call in five.calls()} == {"token", "me", "recently_played"}


def test_a_user_whose_emit_failed_is_emitted_before_the_request_is_answered(
    five: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is stored already, so the retry makes no call for the users of the chunk."""
    five.execute(
        "INSERT INTO spotify_pipeline.sync_requests (user_id)"
        " SELECT user_id FROM spotify_pipeline.users"
    )
    with five.pipeline.engine.begin() as conn:
        (key,) = {request.dispatch_key for request in sync_requests.assign(conn)}
    seen: list[set[str]] = []

    def store(*args: Any) -> None:
        seen.append({row["status"] for row in five.rows(t.sync_requests)})
        if len(seen) == 1:
            raise OperationalError("INSERT", {}, Exception("Dagster's database went away"))
        store_materializations(*args)

    monkeypatch.setattr(jobs, "store_materializations", store)
    config = {"ops": {"choose_users": {"config": {"selection": "enlisted"}}}}
    result = run(instance, config, **{DISPATCH_KEY: key})
    assert result.success
    assert seen == [{"running"}, {"running"}]
    assert {row["status"] for row in five.rows(t.sync_requests)} == {"succeeded"}
    names = ("anna", "ben", "cleo", "dora", "emil")
    assert outcomes(five, result.run_id) == dict.fromkeys(names, "synced")
    shown = materialized(instance)
    assert set(shown) == {(step, name) for step in STEPS for name in names}
    assert shown[RECENTLY_PLAYED, "anna"]["dagster/partition_row_count"] == 50
    assert "earlier sync" in str(shown[RECENTLY_PLAYED, "anna"]["remark"])
    assert len(five.calls("recently_played")) == len(names)


def in_this_process() -> dg.JobDefinition:
    """The job with an executor that shares our memory; Dagster needs a function to retry it."""
    return sync_users.graph.to_job(
        name="sync_users",
        executor_def=dg.in_process_executor,
        resource_defs={
            "pipeline": StagedPipeline(),
            "chunk_numbers": dg.IOManagerDefinition.hardcoded_io_manager(ChunkNumbers()),
        },
    )


def test_a_retry_resumes_with_the_unfinished_chunks(
    five: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Dagster does when a run's process dies: only failed steps, under another run id."""
    really = runs.sync_chunk

    def dying(pipeline: object, run_id: str, chunk: int, *args: Any, **options: Any) -> Any:
        if chunk == 1:
            raise dg.Failure("the server went away", allow_retries=False)
        return really(pipeline, run_id, chunk, *args, **options)

    job = dg.reconstructable(in_this_process)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "sync_chunk", dying)
        with dg.execute_job(job, instance, run_config=CHUNKS_OF_TWO) as first:
            assert not first.success
    assert outcomes(five) == {
        "anna": "synced",
        "ben": "synced",
        "cleo": None,
        "dora": None,
        "emil": "synced",
    }
    five.simulator.forget_calls()
    again = dg.ReexecutionOptions.from_failure(first.run_id, instance)
    with dg.execute_job(
        job, instance, run_config=CHUNKS_OF_TWO, reexecution_options=again
    ) as second:
        assert second.success
        assert second.run_id != first.run_id
    assert set(outcomes(five).values()) == {"synced"}
    assert {call.user_id for call in five.calls()} == {"cleo", "dora"}
    assert {user_id for _, user_id in materialized(instance)} == set(outcomes(five))


def test_a_selection_or_a_step_that_does_not_exist_is_refused_before_a_run(
    instance: dg.DagsterInstance,
) -> None:
    for op, config in (
        ("choose_users", {"selection": "everybody"}),
        ("sync_chunk", {"steps": ["top_albums"]}),
        ("choose_users", {"users": ["anna"]}),
    ):
        with pytest.raises(dg.DagsterInvalidConfigError):
            run(instance, {"ops": {op: {"config": config}}})
    assert instance.get_runs_count() == 0


@pytest.mark.parametrize("size", [0, 1001])
def test_chunks_are_of_one_to_a_thousand_users(
    scenario: Scenario, instance: dg.DagsterInstance, size: int
) -> None:
    result = run(instance, {"ops": {"choose_users": {"config": {"chunk_size": size}}}})
    assert failure_of(result) == f"chunk_size is {size}: choose 1 to 1000."


def test_the_selection_enlisted_needs_users_enlisted_before(
    five: Scenario, instance: dg.DagsterInstance
) -> None:
    config = {"ops": {"choose_users": {"config": {"selection": "enlisted"}}}}
    assert "No user is enlisted" in failure_of(run(instance, config))
    assert five.calls() == []


def test_re_executing_a_whole_run_syncs_all_its_users_again(
    five: Scenario, instance: dg.DagsterInstance
) -> None:
    """As "Re-execute all" in the UI does; also of a run whose users were enlisted before."""
    job = dg.reconstructable(in_this_process)
    with dg.execute_job(job, instance, run_config=CHUNKS_OF_TWO) as first:
        assert first.success
    five.connect("fred")
    five.simulator.forget_calls()
    again = dg.ReexecutionOptions(first.run_id)
    config = {"ops": {"choose_users": {"config": {"selection": "enlisted"}}}}
    with dg.execute_job(job, instance, run_config=config, reexecution_options=again) as second:
        assert second.success
    names = {"anna", "ben", "cleo", "dora", "emil"}
    assert outcomes(five, second.run_id) == dict.fromkeys(names, "synced")
    assert {call.user_id for call in five.calls()} == names
