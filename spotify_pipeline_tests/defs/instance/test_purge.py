"""A forgotten user is named nowhere in Dagster, whatever runs, ticks and crashes left behind."""

from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._serdes import deserialize_value
from sqlalchemy import URL, create_engine, select, text

from spotify_pipeline.defs.partitions import partition_reconciler
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.defs.definitions_fixture import (
    crashing,
    evaluated,
    materialize,
    materialized,
    staged_defs,
)
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario
from spotify_pipeline_tests.traces import files_naming, rows_naming

# Escaped in JSON, and a word that no other text contains.
WHO = 'zoë "vergissmeinnicht" 1'
WORD = "vergissmeinnicht"


def reconcile(instance: dg.DagsterInstance) -> str:
    """One tick; what it says."""
    said = evaluated(partition_reconciler, instance)
    assert isinstance(said, dg.SkipReason)
    return said.skip_message or ""


def sync_all(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return (
        staged_defs()
        .resolve_job_def("sync_users")
        .execute_in_process(instance=instance, raise_on_error=False)
    )


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spotify_pipeline.defs.instance.purge.GRACE", timedelta(0))


@pytest.fixture
def lived(scenario: Scenario, instance: dg.DagsterInstance) -> Scenario:
    """Two users, synced alone and in a shared run; the first failed once and has to reconnect."""
    scenario.connect(WHO, "Europe/Oslo")
    scenario.connect("otto")
    reconcile(instance)
    assert sync_all(instance).success
    fault = scenario.simulator.add_fault(ServerError(), user_id=WHO)
    assert not materialize(instance, WHO, steps=["recently_played"]).success
    scenario.simulator.clear_faults(fault)
    # Their partition says so, in an observation.
    scenario.simulator.revoke(WHO)
    assert materialize(instance, WHO, steps=["recently_played"]).success
    return scenario


@pytest.fixture
def naming(database: URL, dagster_database: URL, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """Where the word stands: in the rows of both databases, in the files of the home."""

    def naming() -> dict[str, Any]:
        found: dict[str, Any] = rows_naming(database, WORD) | rows_naming(dagster_database, WORD)
        if files := files_naming(tmp_path, WORD):
            found["files"] = files
        return found

    return naming


def test_forgetting_removes_the_rows_at_once_and_every_trace_in_dagster_soon(
    lived: Scenario,
    instance: dg.DagsterInstance,
    naming: Callable[[], dict[str, Any]],
    no_grace: None,
) -> None:
    before = naming()
    assert {"users", "plays", "event_logs", "runs", "run_tags", "dynamic_partitions"} <= set(before)
    lived.forget(WHO)
    ours = {table.name for table in t.metadata.sorted_tables}
    assert ours & naming().keys() == {"forgotten"}
    said = reconcile(instance)
    assert naming() == {}
    assert WORD not in said
    (receipt,) = lived.rows(t.forgotten)
    assert receipt["user_id"] is None
    assert receipt["scrubbed_at"] >= receipt["forgotten_at"]
    assert receipt["traces"]["runs"] == 2
    assert receipt["traces"]["events"] > 0


def test_a_run_whose_process_was_killed_before_it_stored_the_tags_is_purged_too(
    lived: Scenario,
    instance: dg.DagsterInstance,
    naming: Callable[[], dict[str, Any]],
    dagster_database: URL,
    no_grace: None,
) -> None:
    engine = create_engine(dagster_database)
    with engine.begin() as conn:
        of_user = text("DELETE FROM run_tags WHERE value = :who")
        assert conn.execute(of_user, {"who": WHO}).rowcount == 2
    engine.dispose()
    lived.forget(WHO)
    reconcile(instance)
    assert naming() == {}


def test_other_users_keep_their_partitions_materializations_and_runs(
    lived: Scenario, instance: dg.DagsterInstance, no_grace: None
) -> None:
    def of_otto() -> dict[Any, Any]:
        return {k: v for k, v in materialized(instance).items() if k[1] == "otto"}

    before = of_otto()
    runs = instance.get_runs_count()
    lived.forget(WHO)
    reconcile(instance)
    assert of_otto() == before
    assert instance.get_runs_count() == runs - 2
    assert instance.get_dynamic_partitions("spotify_users") == ["otto"]


def test_the_purge_waits_for_active_runs_that_may_name_the_user_again(
    lived: Scenario,
    instance: dg.DagsterInstance,
    naming: Callable[[], dict[str, Any]],
    no_grace: None,
) -> None:
    job = staged_defs().resolve_job_def("sync_users")
    run = instance.create_run_for_job(job, status=Status.STARTED)
    lived.forget(WHO)
    reconcile(instance)
    # The shared run writes an event after the user's rows were deleted.
    instance.report_runless_asset_event(
        dg.AssetMaterialization(dg.AssetKey("recently_played"), partition=WHO)
    )
    reconcile(instance)
    assert naming() == {"forgotten": 1}
    instance.report_run_failed(run)
    reconcile(instance)
    assert naming() == {}


def test_a_run_that_ended_in_the_future_holds_no_purge_up(
    lived: Scenario, instance: dg.DagsterInstance, naming: Callable[[], dict[str, Any]]
) -> None:
    job = staged_defs().resolve_job_def("sync_users")
    run = instance.create_run_for_job(job, status=Status.STARTED)
    instance.report_run_failed(run)
    # As a wrong clock leaves it.
    with instance.run_storage.connect() as conn:
        conn.execute(text("UPDATE runs SET update_timestamp = now() + interval '40 days'"))
    lived.forget(WHO)
    lived.execute("UPDATE spotify_pipeline.forgotten SET forgotten_at = now() - interval '2 min'")
    reconcile(instance)
    reconcile(instance)
    assert naming() == {}


def test_no_purge_completes_before_requested_runs_are_recorded(
    lived: Scenario, instance: dg.DagsterInstance
) -> None:
    lived.forget(WHO)
    reconcile(instance)
    assert lived.rows(t.forgotten)[0]["user_id"] == WHO
    lived.execute("UPDATE spotify_pipeline.forgotten SET forgotten_at = now() - interval '2 min'")
    reconcile(instance)
    assert lived.rows(t.forgotten)[0]["user_id"] is None


def test_a_user_who_registers_again_keeps_what_comes_after(
    lived: Scenario, instance: dg.DagsterInstance, no_grace: None
) -> None:
    lived.forget(WHO)
    lived.connect(WHO)
    assert materialize(instance, WHO).success
    reconcile(instance)
    assert WHO in instance.get_dynamic_partitions("spotify_users")
    assert ("recently_played", WHO) in materialized(instance)
    assert lived.rows(t.forgotten)[0]["user_id"] is None
    assert len(list(instance.get_runs(dg.RunsFilter(tags={"dagster/partition": WHO})))) == 1


def test_a_purge_that_crashes_at_any_statement_is_completed_by_the_next(
    lived: Scenario,
    instance: dg.DagsterInstance,
    naming: Callable[[], dict[str, Any]],
    no_grace: None,
) -> None:
    run, _ = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": WHO}))
    # Dagster's own errors name the user like this; only the run says whose event it is.
    instance.report_engine_event(f"Could not find a partition with key `{WHO}`.", run)
    lived.forget(WHO)
    statements, died = 0, True
    while died:
        with crashing(statements) as crashed:
            reconcile(instance)
        died = crashed[0] or any(row["user_id"] for row in lived.rows(t.forgotten))
        statements += 1
    assert statements > 20
    assert naming() == {}


def test_a_failed_purge_does_not_delay_other_users(
    lived: Scenario,
    instance: dg.DagsterInstance,
    no_grace: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from spotify_pipeline.defs.instance import purge

    original = purge.purge

    def broken(at: dg.DagsterInstance, tombstone: Any) -> Any:
        if tombstone.user_id == WHO:
            raise RuntimeError(WHO)
        return original(at, tombstone)

    monkeypatch.setattr(purge, "purge", broken)
    lived.forget(WHO)
    lived.forget("otto")
    said = reconcile(instance)
    assert "1 failed" in said
    assert WORD not in said
    assert [row["user_id"] for row in lived.rows(t.forgotten)] == [WHO, None]
    monkeypatch.undo()


def test_purging_a_short_id_leaves_longer_ids_that_contain_it(
    scenario: Scenario, instance: dg.DagsterInstance, no_grace: None
) -> None:
    scenario.connect("a")
    scenario.connect("anna")
    assert materialize(instance, "anna").success
    assert materialize(instance, "a").success
    before = {k: v for k, v in materialized(instance).items() if k[1] == "anna"}
    scenario.forget("a")
    reconcile(instance)
    assert materialized(instance) == before
    assert instance.get_dynamic_partitions("spotify_users") == ["anna"]


def test_a_backfill_at_work_keeps_the_partition_until_it_is_done(
    lived: Scenario,
    instance: dg.DagsterInstance,
    naming: Callable[[], dict[str, Any]],
    no_grace: None,
) -> None:
    def backfill(status: BulkActionStatus) -> PartitionBackfill:
        return PartitionBackfill(
            backfill_id="together",
            status=status,
            from_failure=False,
            tags={},
            backfill_timestamp=0.0,
            partition_names=["otto", WHO],
        )

    instance.add_backfill(backfill(BulkActionStatus.REQUESTED))
    lived.forget(WHO)
    reconcile(instance)
    assert set(naming()) == {"forgotten", "bulk_actions", "dynamic_partitions"}
    instance.update_backfill(backfill(BulkActionStatus.COMPLETED_SUCCESS))
    reconcile(instance)
    assert naming() == {}


# Each stands in every tick, event or backfill of other users: as a number, a literal, the name of
# a field, or a text.
COMMON = ["0", "65", "null", "true", "users", "cursor", "partition_reconciler", 'a"b']
COMMON += ['{"partition": "otto"}']


def test_purging_an_id_that_is_a_common_word_leaves_other_rows(
    scenario: Scenario, instance: dg.DagsterInstance, no_grace: None
) -> None:
    scenario.connect("otto")
    reconcile(instance)
    for who in COMMON:
        scenario.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES (:u)", u=who)
        leave_traces(instance, who, text=who)
        leave_traces(instance, "otto", text=who)
        # Still running, and naming no user: the end of the purge does not depend on it.
        instance.create_tick(tick_data(None, text=who, status=TickStatus.STARTED))
    of_otto = {"ticks": 9, "backfills": 9, "checks": 9, "materializations": 1}
    of_others = dict.fromkeys(COMMON, 1)
    before = traces(instance)
    assert before == {kind: of_others | {"otto": n} for kind, n in of_otto.items()}
    for who in COMMON:
        scenario.forget(who)
    reconcile(instance)
    assert traces(instance) == {kind: {"otto": n} for kind, n in of_otto.items()}
    kinds = {"check results": 1, "events": 1, "ticks": 1, "backfills": 1}
    for receipt in scenario.rows(t.forgotten):
        assert receipt["user_id"] is None
        assert {kind: receipt["traces"].get(kind) for kind in kinds} == kinds
    assert instance.get_dynamic_partitions("spotify_users") == ["otto"]


def test_checks_of_a_run_over_several_users_stop_naming_a_forgotten_user(
    scenario: Scenario, instance: dg.DagsterInstance, no_grace: None
) -> None:
    gone = ["0", "null", "a%b", "o'k", "ASSET_CHECK_EVALUATION_PLANNED"]
    names = ["first", *gone, "keep"]
    for who in names:
        scenario.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES (:u)", u=who)
    instance.add_dynamic_partitions("spotify_users", names)
    # Launched, and dead before any check was done.
    run = instance.create_run_for_job(
        staged_defs().resolve_job_def("sync_user"),
        status=Status.STARTED,
        tags={
            "dagster/asset_partition_range_start": "first",
            "dagster/asset_partition_range_end": "keep",
        },
    )
    instance.report_run_failed(run)
    before = planned(instance)
    assert before.keys() == set(names)
    assert all(subset == set(names) for rows in before.values() for subset in rows)
    for who in gone:
        scenario.forget(who)
    reconcile(instance)
    left = planned(instance)
    assert left.keys() == {"first", "keep"}
    assert left["keep"] == [{"first", "keep"}] * len(before["keep"])
    assert all(row["user_id"] is None for row in scenario.rows(t.forgotten))
    # The run bears the name of its first partition and goes with it; what keep has in it stays.
    scenario.forget("first")
    reconcile(instance)
    assert planned(instance) == {"keep": [{"keep"}] * len(before["keep"])}


def test_a_user_who_registers_again_stays_in_checks_planned_since(
    scenario: Scenario, instance: dg.DagsterInstance, no_grace: None
) -> None:
    for who in ("back", "keep"):
        scenario.connect(who)
    instance.add_dynamic_partitions("spotify_users", ["back", "keep"])
    scenario.forget("back")
    scenario.connect("back")
    instance.create_run_for_job(
        staged_defs().resolve_job_def("sync_user"),
        tags={
            "dagster/asset_partition_range_start": "back",
            "dagster/asset_partition_range_end": "keep",
        },
    )
    before = planned(instance)
    assert before.keys() == {"back", "keep"}
    reconcile(instance)
    assert planned(instance) == before


def planned(instance: dg.DagsterInstance) -> dict[str, list[set[str]]]:
    """The partitions that each row of a planned check names, by the row's own; as Dagster reads."""
    found: dict[str, list[set[str]]] = defaultdict(list)
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    c = AssetCheckExecutionsTable.c
    with storage.index_connection() as conn:
        for partition, body in conn.execute(select(c.partition, c.evaluation_event)):
            event = deserialize_value(body, dg.EventLogEntry).dagster_event
            assert event is not None
            subset = event.asset_check_planned_data.partitions_subset
            assert subset is not None
            found[partition].append(set(subset.get_partition_keys()))
    return dict(found)


def leave_traces(instance: dg.DagsterInstance, user_id: str, *, text: str) -> None:
    """An event, a check, a tick and a backfill of a partition, all with the same text in them."""
    instance.add_dynamic_partitions("spotify_users", [user_id])
    events: list[dg.AssetMaterialization | dg.AssetCheckEvaluation] = [
        dg.AssetMaterialization(dg.AssetKey("recently_played"), partition=user_id),
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("daily_listening"),
            # One evaluation per check, run and partition.
            check_name=f"check_{COMMON.index(text)}",
            passed=True,
            partition=user_id,
            metadata={"rows": 0, "said": text},
        ),
    ]
    for event in events:
        instance.report_runless_asset_event(event)
    instance.create_tick(tick_data(user_id, text=text))
    instance.add_backfill(
        PartitionBackfill(
            backfill_id=uuid4().hex,
            status=BulkActionStatus.COMPLETED_SUCCESS,
            from_failure=False,
            tags={"said": text},
            backfill_timestamp=0.0,
            partition_names=[user_id],
        )
    )


def tick_data(
    user_id: str | None, *, text: str, status: TickStatus = TickStatus.SUCCESS
) -> TickData:
    """A tick that asks for a run of a user; its texts are `text`."""
    return TickData(
        instigator_origin_id=text,
        instigator_name=text,
        instigator_type=InstigatorType.SENSOR,
        status=status,
        timestamp=0.0,
        run_ids=[],
        run_keys=[text],
        cursor=text,
        run_requests=[dg.RunRequest(partition_key=user_id, tags={"said": text})] if user_id else [],
    )


def traces(instance: dg.DagsterInstance) -> dict[str, Counter[str | None]]:
    """How often Dagster's storage has each partition, read through its own objects."""
    daily = dg.AssetKey("daily_listening")
    checks = [
        record.event.dagster_event.asset_check_evaluation_data.partition
        for n in range(len(COMMON))
        for record in instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(daily, f"check_{n}"), limit=10
        )
        if record.event and record.event.dagster_event
    ]
    return {
        "ticks": Counter(
            request.partition_key
            for word in COMMON
            for tick in instance.get_ticks(word, word)
            for request in tick.tick_data.run_requests or []
        ),
        "backfills": Counter(
            user_id
            for backfill in instance.get_backfills()
            for user_id in backfill.partition_names or []
        ),
        "checks": Counter(checks),
        "materializations": Counter(user_id for _, user_id in materialized(instance)),
    }
