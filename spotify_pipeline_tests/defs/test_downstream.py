"""A code location downstream: its eager automation runs for the users whose days changed, alone."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
import yaml
from sqlalchemy import Engine, text

from examples.downstream.definitions import defs, favourite_weekday
from spotify_pipeline_tests.app.conftest import autocommit
from spotify_pipeline_tests.defs.definitions_fixture import staged_defs
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

EXAMPLE = Path(__file__).parents[2] / "examples" / "downstream"
USERS = ("anna", "ben", "cleo")
CHUNKS_OF_TWO = {"ops": {"choose_users": {"config": {"selection": "eligible", "chunk_size": 2}}}}


@pytest.fixture
def analyst(_admin: Engine, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example reads as an analyst."""
    name = f"ana_{uuid4().hex}"
    with autocommit(_admin) as server:
        server.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'ana' IN ROLE spotify_analyst"))
    url = scenario.pipeline.engine.url.set(username=name, password="ana")
    monkeypatch.setenv("SPOTIFY_ANALYST_URL", url.render_as_string(hide_password=False))
    yield
    with autocommit(_admin) as server:
        server.execute(text(f"DROP ROLE {name}"))


def test_an_eager_asset_runs_for_exactly_the_users_whose_days_changed(
    analyst: None, scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("spotify_users", [*USERS, "dora"])
    for user_id in USERS:
        scenario.connect(user_id)
    cursor = None

    def sync() -> None:
        job = staged_defs().resolve_job_def("sync_users")
        assert job.execute_in_process(instance=instance, run_config=CHUNKS_OF_TWO).success

    def requested() -> set[str]:
        nonlocal cursor
        found = dg.evaluate_automation_conditions(defs(), instance, cursor=cursor)
        cursor = found.cursor
        return set(found.get_requested_partitions(favourite_weekday.key))

    def run(*users: str) -> None:
        for user_id in users:
            job = defs().resolve_implicit_global_asset_job_def()
            result = job.execute_in_process(instance=instance, partition_key=user_id)
            (event,) = result.asset_materializations_for_node("favourite_weekday")
            assert event.metadata["minutes"].value

    assert requested() == set()
    # The events of a chunk are stored as a batch.
    sync()
    assert requested() == set(USERS)
    run(*USERS)
    assert requested() == set()
    moment = scenario.clock() + timedelta(minutes=1)
    scenario.serve_plays("ben", [(moment, "new")])
    scenario.clock.instant = moment
    sync()
    assert requested() == {"ben"}
    run("ben")
    assert requested() == set()
    sync()
    assert requested() == set()


def test_the_workspace_of_the_example_loads_both_locations() -> None:
    ours, example = yaml.safe_load((EXAMPLE / "workspace.yaml").read_text())["load_from"]
    assert ours["python_module"]["module_name"] == "spotify_pipeline.definitions"
    assert (EXAMPLE / example["python_file"]["relative_path"]).exists()
    assert defs().resolve_all_asset_specs()
