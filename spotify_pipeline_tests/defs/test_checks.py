"""Asset checks: seen on their assets hourly, after a user's sync, and when somebody asks."""

import dagster as dg
import pytest

from spotify_pipeline.defs.checks import HOURLY, OF_USER, SCHEMA_CHECK
from spotify_pipeline.domain.steps import DAILY_LISTENING, MUSIC_PERSONALITY, RECENTLY_PLAYED
from spotify_pipeline.storage.checks.rules import RULES
from spotify_pipeline_tests.defs.definitions_fixture import key, materialize, staged_defs
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

LIES = "UPDATE spotify_pipeline.daily_listening SET minutes = minutes + 1, plays = plays + 1"


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """By name and asset, of those that a run recorded."""
    found = [
        event.asset_check_evaluation_data
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    return {f"{one.asset_key.to_user_string()}:{one.check_name}": one for one in found}


def health(instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    job = staged_defs().resolve_job_def("health")
    result = job.execute_in_process(instance=instance)
    assert result.success
    return evaluations(result)


def test_the_health_job_evaluates_every_check_over_all_users(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna", "Asia/Kathmandu")
    scenario.sync_well("anna")
    found = health(instance)
    assert len(found) == len(HOURLY)
    assert [name for name, one in found.items() if not one.passed] == []
    assert {one.partition for one in found.values()} == {None}


def test_a_check_that_fails_counts_and_names_the_command_but_nobody(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id)
    scenario.sync_well("anna", "ben")
    scenario.execute(LIES + " WHERE user_id = 'anna'")
    scenario.execute("UPDATE spotify_pipeline.users SET connection = 'needs_reauth'")
    found = health(instance)
    failed = {name: one for name, one in found.items() if not one.passed}
    assert set(failed) == {
        "daily_listening:days_sum_to_plays",
        "recently_played:nobody_has_to_reconnect",
    }
    sums = failed["daily_listening:days_sum_to_plays"]
    assert sums.severity is dg.AssetCheckSeverity.ERROR
    assert sums.metadata["users"].value == 1
    assert sums.metadata["list the names"].value == (
        "spotify-pipeline users list --check days_sum_to_plays"
    )
    reconnect = failed["recently_played:nobody_has_to_reconnect"]
    assert reconnect.severity is dg.AssetCheckSeverity.WARN
    assert reconnect.metadata["users"].value == 2
    assert "anna" not in str(list(found.values()))


def test_a_table_that_somebody_changed_is_told_and_stops_no_other_check(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.execute("ALTER TABLE spotify_pipeline.music_personality RENAME COLUMN newness TO n")
    found = health(instance)
    assert len(found) == len(HOURLY)
    drift = found[f"music_personality:{SCHEMA_CHECK}"]
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "the column newness is missing" in (drift.description or "")
    unasked = found["music_personality:metrics_are_in_range"]
    assert not unasked.passed
    assert SCHEMA_CHECK in (unasked.description or "")
    assert found[f"recently_played:{SCHEMA_CHECK}"].passed


def test_a_sync_evaluates_the_cheap_checks_on_the_users_partition(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    result = materialize(instance, "anna")
    assert result.success
    found = evaluations(result)
    assert {one.check_name for one in found.values()} == {spec.name for spec in OF_USER}
    assert {(one.partition, one.passed) for one in found.values()} == {("anna", True)}


def test_a_user_whose_days_are_wrong_is_seen_at_their_next_sync_and_nobody_else(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id)
    scenario.sync_well("anna", "ben")
    scenario.execute(LIES)
    found = evaluations(materialize(instance, "anna"))
    assert not found["daily_listening:days_sum_to_plays_of_user"].passed
    # A rebuild puts it right.
    found = evaluations(materialize(instance, "anna", [DAILY_LISTENING, MUSIC_PERSONALITY]))
    assert found["daily_listening:days_sum_to_plays_of_user"].passed


def test_checks_can_be_executed_one_by_one(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    wanted = dg.AssetCheckKey(key(RECENTLY_PLAYED), "nobody_has_to_reconnect")
    job = dg.define_asset_job("one", dg.AssetSelection.checks(wanted))
    defs = dg.Definitions.merge(staged_defs(), dg.Definitions(jobs=[job]))
    found = evaluations(defs.resolve_job_def("one").execute_in_process(instance=instance))
    assert list(found) == ["recently_played:nobody_has_to_reconnect"]


@pytest.mark.parametrize("spec", [*HOURLY, *OF_USER], ids=lambda spec: spec.key.to_user_string())
def test_a_check_explains_itself_and_holds_nothing_back(spec: dg.AssetCheckSpec) -> None:
    assert spec.description
    assert spec.description.endswith(".")
    assert spec.blocking is False


def test_there_is_a_check_for_every_rule() -> None:
    rules = {(key(rule.step), rule.name) for rule in RULES}
    assert rules <= {(spec.asset_key, spec.name) for spec in HOURLY}


def test_a_run_over_several_users_tells_each_ones_checks_on_their_partition(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id)
    scenario.sync_well("anna", "ben")
    instance.add_dynamic_partitions("spotify_users", ["anna", "ben"])
    scenario.execute(LIES + " WHERE user_id = 'ben'")
    several = {
        "dagster/asset_partition_range_start": "anna",
        "dagster/asset_partition_range_end": "ben",
    }
    job = staged_defs().resolve_job_def("sync_user")
    result = job.execute_in_process(
        instance=instance,
        tags=several,
        asset_selection=[key(RECENTLY_PLAYED), key(DAILY_LISTENING)],
    )
    told = {
        (one.partition, one.passed)
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
        for one in [event.asset_check_evaluation_data]
        if one.check_name == "days_sum_to_plays_of_user"
    }
    assert told == {("anna", True), ("ben", False)}
