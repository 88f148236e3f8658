"""Asset checks: over all users on record_health, of one user on recently_played."""

import dagster as dg
import pytest

from spotify_pipeline.defs.checks import CHECKS, SCHEMA_CHECK, USER_SYNC_OK
from spotify_pipeline.domain.outcome import DAILY_LISTENING, RECENTLY_PLAYED
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage.checks.rules import HOURLY
from spotify_pipeline_tests.defs.definitions_fixture import key, materialize, staged_defs
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

WRONG_DAYS = "UPDATE spotify_pipeline.daily_listening SET minutes = minutes + 1, plays = plays + 1"


def events_of(
    instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, event_type: dg.DagsterEventType
) -> list[dg.DagsterEvent]:
    logged = instance.all_logs(result.run_id, of_type=event_type)
    return [entry.dagster_event for entry in logged if entry.dagster_event]


def planned(
    instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult
) -> list[tuple[str, str]]:
    """(asset, name) of the checks that a run said it would evaluate."""
    event_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
    plans = [e.asset_check_planned_data for e in events_of(instance, result, event_type)]
    return [(plan.asset_key.to_user_string(), plan.check_name) for plan in plans]


def evaluations(
    instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult
) -> list[dg.AssetCheckEvaluation]:
    event_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    return [e.asset_check_evaluation_data for e in events_of(instance, result, event_type)]


def health(instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    job = staged_defs().resolve_job_def("health")
    result = job.execute_in_process(instance=instance)
    assert result.success
    found = evaluations(instance, result)
    assert len(planned(instance, result)) == len(found) == len(CHECKS)
    return {check.check_name: check for check in found}


def test_the_health_job_evaluates_every_check_over_all_users(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna", "Asia/Kathmandu")
    scenario.sync_well("anna")
    found = health(instance)
    assert [name for name, check in found.items() if not check.passed] == []
    assert {check.partition for check in found.values()} == {None}
    record = instance.get_latest_materialization_event(key("record_health"))
    assert record is not None
    assert record.asset_materialization is not None
    metadata = record.asset_materialization.metadata
    assert (metadata["checks"].value, metadata["failed"].value) == (len(CHECKS), 0)
    assert metadata["users connected"].value == 1
    # Else the UI shows them as checks of the materialization before.
    targets = {check.target_materialization_data for check in found.values()}
    assert {target and target.timestamp for target in targets} == {record.timestamp}


def test_maintenance_that_fails_hides_no_check(
    scenario: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    scenario.connect("anna")
    monkeypatch.setattr("spotify_pipeline.sync.admin.maintenance.run_maintenance", fail)
    job = staged_defs().resolve_job_def("health")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert len(evaluations(instance, result)) == len(CHECKS)


def test_a_check_that_fails_counts_users_and_names_the_command_that_lists_them(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id)
    scenario.sync_well("anna", "ben")
    scenario.execute(WRONG_DAYS + " WHERE user_id = 'anna'")
    scenario.execute("UPDATE spotify_pipeline.users SET connection = 'needs_reauth'")
    found = health(instance)
    failed = {name: check for name, check in found.items() if not check.passed}
    # That users have to reconnect fails none: it is up to them.
    assert set(failed) == {"days_sum_to_plays"}
    sums = failed["days_sum_to_plays"]
    assert sums.severity is dg.AssetCheckSeverity.ERROR
    assert sums.metadata["users"].value == 1
    assert sums.metadata["list the names"].value == (
        "spotify-pipeline users list --check days_sum_to_plays"
    )
    assert "anna" not in str(list(found.values()))


def test_a_changed_table_fails_the_schema_check_and_hides_no_other(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.execute("ALTER TABLE spotify_pipeline.music_personality RENAME COLUMN newness TO n")
    found = health(instance)
    drift = found[SCHEMA_CHECK]
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "music_personality: the column newness is missing" in (drift.description or "")
    failed = found["metrics_are_in_range"]
    assert not failed.passed
    assert SCHEMA_CHECK in (failed.description or "")
    assert found["days_sum_to_plays"].passed


def test_checks_can_be_executed_one_by_one_without_the_maintenance(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    wanted = dg.AssetCheckKey(key("record_health"), "days_sum_to_plays")
    job = dg.define_asset_job("one", dg.AssetSelection.checks(wanted))
    defs = dg.Definitions.merge(staged_defs(), dg.Definitions(jobs=[job]))
    result = defs.resolve_job_def("one").execute_in_process(instance=instance)
    assert [check.check_name for check in evaluations(instance, result)] == ["days_sum_to_plays"]
    assert instance.get_latest_materialization_event(key("record_health")) is None


def test_a_run_of_one_user_plans_their_check_alone_and_evaluates_it(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    result = materialize(instance, "anna")
    assert planned(instance, result) == [(RECENTLY_PLAYED, "user_sync_ok")]
    (check,) = evaluations(instance, result)
    assert (check.check_name, check.partition, check.passed) == ("user_sync_ok", "anna", True)


def test_a_run_of_one_user_that_fails_evaluates_their_check(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.simulator.add_fault(ServerError())
    result = materialize(instance, "anna")
    assert not result.success
    (check,) = evaluations(instance, result)
    assert (check.partition, check.passed) == ("anna", False)


def test_the_check_of_a_user_can_be_executed_without_a_sync(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.sync_well("anna")
    instance.add_dynamic_partitions("spotify_users", ["anna"])
    everything = staged_defs().resolve_implicit_global_asset_job_def()
    job = everything.get_subset(asset_check_selection={USER_SYNC_OK.key})
    calls = len(scenario.simulator.calls())
    result = job.execute_in_process(instance=instance, tags={"dagster/partition": "anna"})
    (check,) = evaluations(instance, result)
    assert (check.partition, check.passed) == ("anna", True)
    assert len(scenario.simulator.calls()) == calls


def test_a_run_over_several_users_evaluates_the_check_of_each(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id)
    scenario.sync_well("anna", "ben")
    scenario.simulator.add_fault(ServerError(), user_id="ben")
    instance.add_dynamic_partitions("spotify_users", ["anna", "ben"])
    several = {
        "dagster/asset_partition_range_start": "anna",
        "dagster/asset_partition_range_end": "ben",
    }
    result = (
        staged_defs()
        .resolve_job_def("sync_user")
        .execute_in_process(
            instance=instance,
            tags=several,
            asset_selection=[key(RECENTLY_PLAYED), key(DAILY_LISTENING)],
            raise_on_error=False,
        )
    )
    checks = evaluations(instance, result)
    assert {(check.partition, check.passed) for check in checks} == {("anna", True), ("ben", False)}
    # Each is about the latest materialization of its partition: else the UI shows it as missing.
    (anna,) = instance.fetch_materializations(key(RECENTLY_PLAYED), limit=5).records
    (target,) = [check.target_materialization_data for check in checks if check.passed]
    assert target is not None
    assert target.storage_id == anna.storage_id


def test_the_users_check_executed_without_a_partition_is_about_all_users(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    for user_id in ("anna", "ben", "cleo"):
        scenario.connect(user_id)
    scenario.simulator.add_fault(ServerError(), user_id="ben")
    assert materialize(instance, "anna").success
    scenario.sync("anna", "ben", "cleo")
    scenario.execute(
        "UPDATE spotify_pipeline.users SET connection = 'needs_reauth' WHERE user_id = 'cleo'"
    )
    everything = staged_defs().resolve_implicit_global_asset_job_def()
    job = everything.get_subset(asset_check_selection={USER_SYNC_OK.key})
    result = job.execute_in_process(instance=instance)
    assert result.success
    (check,) = evaluations(instance, result)
    assert (check.partition, check.passed) == (None, False)
    assert check.description == "The last sync of 1 of 3 users failed."
    assert check.metadata["list the names"].value == "spotify-pipeline users list --failed"
    assert check.metadata["have to connect Spotify again"].value == 1
    assert "ben" not in str(check)


@pytest.mark.parametrize("spec", [*CHECKS, USER_SYNC_OK], ids=lambda spec: spec.name)
def test_every_check_has_a_description_and_blocks_nothing(spec: dg.AssetCheckSpec) -> None:
    assert spec.description
    assert spec.description.endswith(".")
    assert spec.blocking is False


def test_every_hourly_rule_has_a_check() -> None:
    assert {spec.name for spec in CHECKS} == {SCHEMA_CHECK, *(rule.name for rule in HOURLY)}
