"""Materializing one user: the job sync_user, a subset of it, several partitions, and failures."""

from collections.abc import Sequence
from datetime import date

import dagster as dg
import pytest
from sqlalchemy import Table

from spotify_pipeline.defs import assets
from spotify_pipeline.defs.checks import NO_SUCH_USER
from spotify_pipeline.domain.error_codes import NOT_CONNECTED, WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    MUSIC_PERSONALITY,
    PROFILE_REVALIDATION,
    RECENTLY_PLAYED,
    STEPS,
    TOP_ARTISTS,
    TOP_TRACKS,
)
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work.leases import leased
from spotify_pipeline_tests.defs.definitions_fixture import (
    failure_of,
    key,
    materialize,
    materialized,
    staged_defs,
)
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

OBSERVATION = "ASSET_OBSERVATION"


def counted(scenario: Scenario, user_id: str) -> dict[str, int]:
    """Rows per step, counted in the tables."""

    def rows(table: Table, **where: str) -> int:
        found = scenario.rows(table, user_id)
        return sum(all(row[name] == value for name, value in where.items()) for row in found)

    lists = ((TOP_ARTISTS, t.user_top_artists), (TOP_TRACKS, t.user_top_tracks))
    return {
        RECENTLY_PLAYED: rows(t.plays),
        DAILY_LISTENING: rows(t.daily_listening),
        MUSIC_PERSONALITY: rows(t.music_personality),
        **{
            step: rows(table, time_range=time_range)
            for steps, table in lists
            for step, time_range in steps.items()
        },
    }


def test_a_run_of_the_job_materializes_every_asset_with_its_row_counts(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna", "Europe/Oslo")
    result = materialize(instance, "anna")
    assert result.success
    events = materialized(instance)
    assert set(events) == {(step, "anna") for step in STEPS}
    for step, rows in counted(scenario, "anna").items():
        assert rows > 0
        reported = events[step, "anna"]
        if step == PROFILE_REVALIDATION:
            assert reported == {"the app": "has no webhook"}
            continue
        assert (reported["dagster/partition_row_count"], reported["new rows"]) == (rows, rows), step
    # Again, and nothing is new.
    materialize(instance, "anna")
    for (step, _), reported in materialized(instance).items():
        if step == PROFILE_REVALIDATION:
            continue
        assert (reported["new rows"], reported["changed rows"]) == (0, 0), step


def test_a_subset_without_plays_is_a_rebuild_that_asks_spotify_nothing(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.sync_well("anna")
    minutes = scenario.minutes("anna")
    scenario.execute("UPDATE spotify_pipeline.daily_listening SET minutes = 0")
    scenario.simulator.forget_calls()
    assert materialize(instance, "anna", [DAILY_LISTENING, MUSIC_PERSONALITY]).success
    assert scenario.minutes("anna") == minutes
    assert scenario.calls() == []
    assert set(materialized(instance)) == {(DAILY_LISTENING, "anna"), (MUSIC_PERSONALITY, "anna")}


@pytest.mark.parametrize(
    ("steps", "asked"),
    [
        ([RECENTLY_PLAYED], ["recently_played"]),
        (["top_artists/short_term", "top_tracks/long_term"], ["top_artists", "top_tracks"]),
    ],
    ids=["plays", "lists"],
)
def test_a_subset_asks_for_what_it_needs_and_materializes_only_that(
    scenario: Scenario, instance: dg.DagsterInstance, steps: Sequence[str], asked: Sequence[str]
) -> None:
    scenario.connect("anna")
    assert materialize(instance, "anna", steps).success
    assert [call.endpoint for call in scenario.calls()] == ["token", "me", *asked]
    assert set(materialized(instance)) == {(step, "anna") for step in steps}


def test_only_succeeded_assets_are_materialized_and_the_run_fails_with_the_remedy(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.simulator.add_fault(ServerError(), endpoint="top_artists")
    result = materialize(instance, "anna")
    assert not result.success
    assert set(materialized(instance)) == {
        (step, "anna") for step in STEPS if step not in TOP_ARTISTS
    }
    said = failure_of(result)
    assert "top_artists/short_term: SPOTIFY_UNAVAILABLE" in said
    assert WHAT_TO_DO[ErrorCode.SPOTIFY_UNAVAILABLE] in said


def test_a_user_who_has_to_reconnect_fails_no_run_and_the_partition_says_what_to_do(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    assert materialize(instance, "anna").success
    scenario.simulator.revoke("anna")
    found = materialize(instance, "anna")
    assert found.success
    assert materialized(instance, found.run_id) == {}
    (said,) = sentences_of(found)
    assert str(said).startswith(WHAT_TO_DO[ErrorCode.RECONNECT])
    scenario.execute("SELECT spotify_pipeline.disconnect_user('anna')")
    found = materialize(instance, "anna")
    assert found.success
    assert sentences_of(found) == [NOT_CONNECTED]
    scenario.connect("anna")
    found = materialize(instance, "anna")
    assert found.success
    assert len(materialized(instance, found.run_id)) == len(STEPS)


def sentences_of(result: dg.ExecuteInProcessResult) -> list[str | None]:
    """What the run says on the partition of every asset, where the check passes with the same."""
    observed = [event for event in result.all_events if event.event_type_value == OBSERVATION]
    (check,) = result.get_asset_check_evaluations()
    said = [event.asset_observation_data.asset_observation.description for event in observed]
    assert check.passed
    assert {check.description} == set(said)
    assert {event.partition for event in observed} == {"anna"}
    assert {event.asset_key for event in observed} == {key(step) for step in STEPS}
    return sorted(set(said))


def test_an_unknown_or_busy_user_fails_the_run_with_a_sentence(
    scenario: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "WAIT_SECONDS", 0)
    unknown = materialize(instance, "nobody")
    assert "no such user" in failure_of(unknown)
    # The check that the run planned is evaluated.
    assert [(c.passed, c.description) for c in unknown.get_asset_check_evaluations()] == [
        (False, NO_SUCH_USER)
    ]
    scenario.connect("anna")
    with leased(scenario.pipeline.engine, ["anna"]):
        assert "Another sync" in failure_of(materialize(instance, "anna"))
    assert materialized(instance) == {}


def range_of(instance: dg.DagsterInstance, first: str, last: str) -> dg.ExecuteInProcessResult:
    """One run over all partitions from the first to the last, as the UI starts it."""
    return (
        staged_defs()
        .resolve_job_def("sync_user")
        .execute_in_process(
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            },
            raise_on_error=False,
        )
    )


def test_a_run_over_several_users_marks_exactly_those_who_succeeded(
    scenario: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "WAIT_SECONDS", 0)
    names = ["anna", "ben", "cleo", "dora"]
    for user_id in names:
        scenario.connect(user_id)
    instance.add_dynamic_partitions("spotify_users", names)
    scenario.simulator.add_fault(ServerError(), user_id="ben")
    with leased(scenario.pipeline.engine, ["cleo"]):
        result = range_of(instance, "anna", "dora")
    assert set(materialized(instance)) == {(s, user) for s in STEPS for user in ("anna", "dora")}
    said = failure_of(result)
    assert "SPOTIFY_UNAVAILABLE: 1 of 4 users" in said
    assert "1 of 4 users: Another sync" in said
    scenario.simulator.clear_faults()
    with leased(scenario.pipeline.engine, ["cleo"]):
        assert "1 of 2 users: Another sync" in failure_of(range_of(instance, "ben", "cleo"))
    again = range_of(instance, "ben", "cleo")
    assert again.success
    assert set(materialized(instance)) == {(step, user) for step in STEPS for user in names}


def test_a_run_answers_the_request_that_it_was_started_for(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.execute("INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES ('anna')")
    scenario.execute("UPDATE spotify_pipeline.sync_requests SET dispatch_key = 'request-1-1'")
    result = materialize(instance, "anna", tags={".dagster/spotify_dispatch_key": "request-1-1"})
    (request,) = scenario.rows(t.sync_requests)
    assert (request["status"], request["run_id"]) == ("succeeded", result.run_id)


def test_no_event_contains_listening_data(scenario: Scenario, instance: dg.DagsterInstance) -> None:
    scenario.connect("anna")
    heard = [f"secret song {number}" for number in range(3)]
    scenario.serve_plays(
        "anna", [(scenario.clock().replace(hour=hour), name) for hour, name in enumerate(heard)]
    )
    result = materialize(instance, "anna")
    assert scenario.minutes("anna") == {date(2026, 3, 4): 9}
    log = str(instance.all_logs(result.run_id))
    assert "sync_user_assets" in log
    assert [name for name in heard if name in log] == []


def test_every_asset_can_be_materialized_alone(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.sync_well("anna")
    for step in STEPS:
        run = materialize(instance, "anna", [step])
        assert run.success, step
        assert set(materialized(instance, run.run_id)) == {(step, "anna")}
        assert {event.asset_key for event in run.all_events if event.is_step_materialization} == {
            key(step)
        }


def test_materializing_the_whole_graph_syncs_a_user_who_has_imported_nothing(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    instance.add_dynamic_partitions("spotify_users", ["anna"])
    defs = staged_defs()
    whole = [spec.key for spec in defs.resolve_all_asset_specs() if spec.partitions_def is not None]
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, partition_key="anna", asset_selection=whole
    )
    assert result.success
    assert set(materialized(instance)) == {(step, "anna") for step in STEPS}
