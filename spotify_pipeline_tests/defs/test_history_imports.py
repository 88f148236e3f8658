"""The sensor of uploads: one run for each, tried again and given up; and what the run reports."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status
from sqlalchemy import URL

from spotify_pipeline import app
from spotify_pipeline.defs import history_imports, resources
from spotify_pipeline.defs.checks import NO_SUCH_USER
from spotify_pipeline.defs.history_imports import history_import_sensor
from spotify_pipeline.defs.in_process import report_import, report_pictures
from spotify_pipeline.defs.partitions import DISPATCH_KEY, partition_reconciler
from spotify_pipeline.domain.outcome import DAILY_LISTENING
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work.leases import leased
from spotify_pipeline.sync.import_history import import_upload
from spotify_pipeline_tests.defs.definitions_fixture import (
    evaluated,
    failure_of,
    key,
    staged_defs,
)
from spotify_pipeline_tests.sync.imports.export_files import extended_row, hand_over
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario
from spotify_pipeline_tests.traces import rows_naming

HOUR = timedelta(hours=1)
ROWS = [extended_row(NOON - n * HOUR, n) for n in range(1, 6)]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_imports, "PAUSE", timedelta(0))
    monkeypatch.setattr(resources, "WAIT_SECONDS", 0)


@pytest.fixture
def ada(scenario: Scenario, tmp_path: Path) -> Scenario:
    """Ada, who has handed over two files."""
    with scenario.pipeline.engine.begin() as conn:
        app.register_user(conn, "ada", "Europe/Oslo")
    hand_over(scenario.pipeline, tmp_path, ROWS[:3], ROWS[3:])
    return scenario


def tick(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """One evaluation: the runs it asks for. Dagster keeps its result, so it names no user more."""
    result = evaluated(history_import_sensor, instance)
    if isinstance(result, dg.SkipReason):
        return []
    assert isinstance(result, dg.SensorResult)
    assert not result.dynamic_partitions_requests
    return list(result.run_requests or [])


def run(instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    return (
        staged_defs()
        .resolve_job_def("import_history")
        .execute_in_process(
            instance=instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            raise_on_error=False,
        )
    )


def ended(instance: dg.DagsterInstance, request: dg.RunRequest, status: Status) -> None:
    """A run for the request that ended so."""
    instance.create_run_for_job(
        staged_defs().resolve_job_def("import_history"),
        status=status,
        tags={DISPATCH_KEY: request.tags[DISPATCH_KEY], "dagster/partition": "ada"},
    )


def statuses(scenario: Scenario) -> list[tuple[Any, ...]]:
    return [(row["status"], row["error_message"]) for row in scenario.rows(t.history_imports)]


def test_an_upload_is_imported_by_one_run_that_reports_its_receipt_and_days(
    ada: Scenario, instance: dg.DagsterInstance
) -> None:
    (request,) = tick(instance)
    # The daemon may die before it starts the run; Dagster starts one run per key.
    assert tick(instance) == [request]
    assert (request.partition_key, request.tags["spotify/trigger"]) == ("ada", "upload")
    assert "ada" not in (request.run_key or "")
    result = run(instance, request)
    assert result.success
    assert statuses(ada) == [("succeeded", None)]
    assert len(ada.rows(t.plays)) == len(ROWS)
    assert sum(ada.minutes("ada").values()) == 3 * len(ROWS)
    assert ada.rows(t.history_import_batches) == []
    (record,) = instance.fetch_materializations(key("imported_history"), limit=9).records
    assert record.asset_materialization is not None
    assert record.asset_materialization.partition == "ada"
    reported = {name: value.value for name, value in record.asset_materialization.metadata.items()}
    assert (reported["rows_read"], reported["files"], reported["new"]) == (5, 2, 5)
    assert instance.fetch_materializations(key(DAILY_LISTENING), limit=9).records
    assert tick(instance) == []
    # Materialized again by hand: the same report, and nothing else.
    before = ada.dump("computed_at")
    assert run(instance, request).success
    assert ada.dump("computed_at") == before


def test_uploads_leave_a_run_slot_to_requests(instance: dg.DagsterInstance) -> None:
    queue = instance.get_concurrency_config().run_queue_config
    limits = {
        limit["value"]: limit["limit"]
        for limit in queue.tag_concurrency_limits
        if limit["key"] == "spotify/trigger"
    }
    assert limits["upload"] + limits["scheduled"] < queue.max_concurrent_runs


@pytest.mark.parametrize("status", [Status.FAILURE, Status.SUCCESS])
def test_an_upload_that_three_runs_did_not_import_fails_with_what_to_do(
    ada: Scenario, instance: dg.DagsterInstance, status: Status
) -> None:
    keys = set()
    for _ in range(3):
        (request,) = tick(instance)
        keys.add(request.run_key)
        ended(instance, request, status)
    assert tick(instance) == []
    assert len(keys) == 3
    assert statuses(ada) == [("failed", history_imports.GIVEN_UP)]
    assert tick(instance) == []


def test_a_run_in_progress_is_waited_for_and_a_cancelled_one_is_not_repeated(
    ada: Scenario, instance: dg.DagsterInstance
) -> None:
    (request,) = tick(instance)
    ended(instance, request, Status.STARTED)
    assert tick(instance) == []
    assert statuses(ada) == [("closed", None)]
    ended(instance, request, Status.CANCELED)
    assert tick(instance) == []
    assert statuses(ada) == [("failed", history_imports.CANCELLED)]


def test_dagster_has_time_to_repeat_a_run_that_crashed(
    ada: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_imports, "PAUSE", HOUR)
    (request,) = tick(instance)
    ended(instance, request, Status.FAILURE)
    assert tick(instance) == []
    assert statuses(ada) == [("closed", None)]


def test_a_run_for_a_user_who_is_being_synced_fails_with_a_sentence_and_loses_nothing(
    ada: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_upload, "__kwdefaults__", {"wait_seconds": 0})
    (request,) = tick(instance)
    with leased(ada.pipeline.engine, ["ada"]):
        assert "still going on" in failure_of(run(instance, request))
    (again,) = tick(instance)
    assert again.run_key != request.run_key
    assert run(instance, again).success
    assert statuses(ada) == [("succeeded", None)]


def test_a_user_who_never_imported_anything_has_read_no_rows_and_a_missing_one_fails(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    with scenario.pipeline.engine.begin() as conn:
        app.register_user(conn, "ben")
    instance.add_dynamic_partitions("spotify_users", ["ben"])
    assert run(instance, dg.RunRequest(partition_key="ben")).success
    (record,) = instance.fetch_materializations(key("imported_history"), limit=9).records
    assert record.asset_materialization is not None
    reported = {name: value.value for name, value in record.asset_materialization.metadata.items()}
    assert reported == {"rows_read": 0}
    instance.add_dynamic_partitions("spotify_users", ["nemo"])
    assert failure_of(run(instance, dg.RunRequest(partition_key="nemo"))) == NO_SUCH_USER


def test_forgetting_a_user_removes_the_import_and_the_picture_from_dagster_too(
    ada: Scenario,
    instance: dg.DagsterInstance,
    dagster_database: URL,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spotify_pipeline.defs.instance.purge.GRACE", timedelta(0))
    word = "vergissmeinnicht"
    with ada.pipeline.engine.begin() as conn:
        app.register_user(conn, word)
    ada.execute("UPDATE spotify_pipeline.history_imports SET user_id = :u", u=word)
    (request,) = tick(instance)
    assert run(instance, request).success
    # As the command reports an import: outside any run.
    receipt, _ = import_upload(ada.pipeline, word)
    assert receipt is not None
    report_import(instance, word, receipt)
    report_pictures(instance, ada.pipeline, [word])
    ada.forget(word)
    evaluated(partition_reconciler, instance)
    assert rows_naming(dagster_database, word) == {}
