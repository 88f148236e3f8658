"""The graph that a data engineer sees: keys, edges, descriptions, columns, schedules, sensors."""

import json
import subprocess
import sys

import dagster as dg
import pytest

from spotify_pipeline.definitions import defs
from spotify_pipeline.defs.instance.purge import OUR_ASSETS
from spotify_pipeline.domain.personality.definition import METRICS
from spotify_pipeline.storage import tables as t

RANGES = ("short_term", "medium_term", "long_term")
LISTS = [f"{kind}/{time_range}" for kind in ("top_artists", "top_tracks") for time_range in RANGES]

# What users were promised: each asset and what it is computed from.
EDGES: dict[str, list[str]] = {
    "recently_played": [],
    **{name: [] for name in LISTS},
    "imported_history": [],
    "daily_listening": ["recently_played", "imported_history"],
    "music_personality": ["daily_listening", *LISTS],
    "profile_revalidation": ["music_personality"],
    "listening_picture": [
        "daily_listening",
        *(name for name in LISTS if name.startswith("top_artists")),
        "music_personality",
    ],
}
TABLES = {
    "recently_played": "plays",
    **{name: f"user_{name.partition('/')[0]}" for name in LISTS},
    "imported_history": "imported_plays",
    "daily_listening": "daily_listening",
    "music_personality": "music_personality",
}


TABLES_AND_VIEWS = {**t.metadata.tables, **t.views.tables}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_the_graph_has_the_assets_of_the_contract(specs: dict[str, dg.AssetSpec]) -> None:
    edges = {
        name: sorted(dep.asset_key.to_user_string() for dep in spec.deps)
        for name, spec in specs.items()
    }
    # Over all users, and so in no run of one.
    assert edges.pop("record_health") == []
    assert edges == {name: sorted(needed) for name, needed in EDGES.items()}


@pytest.mark.parametrize("name", EDGES)
def test_every_asset_has_a_description(specs: dict[str, dg.AssetSpec], name: str) -> None:
    spec = specs[name]
    assert spec.description
    assert spec.description.endswith(".")
    assert spec.owners
    assert spec.kinds
    assert spec.group_name not in (None, "default")
    partitions = spec.partitions_def
    assert isinstance(partitions, dg.DynamicPartitionsDefinition)
    assert partitions.name == "spotify_users"
    assert spec.tags["layer"] in ("fetched", "computed", "delivered")
    if name not in TABLES:
        assert spec.metadata == {}
        return
    table = spec.metadata["dagster/table_name"]
    assert table == f"spotify_pipeline.{TABLES[name]}"
    schema = spec.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    columns = {column.name: column for column in schema.columns}
    assert list(columns) == [column.name for column in TABLES_AND_VIEWS[table].columns]
    assert all(column.description for column in columns.values())
    assert columns["user_id"].constraints.nullable is False


def test_forgetting_a_user_purges_every_asset_that_has_their_partition(
    specs: dict[str, dg.AssetSpec],
) -> None:
    of_users = {spec.key.to_string() for spec in specs.values() if spec.partitions_def}
    assert set(OUR_ASSETS) == of_users


def test_the_lineage_of_a_column_names_columns_that_exist(specs: dict[str, dg.AssetSpec]) -> None:
    columns = {
        spec.key: {column.name for column in spec.metadata["dagster/column_schema"].columns}
        for spec in specs.values()
        if "dagster/column_schema" in spec.metadata
    }
    printed = {
        name: spec.metadata["dagster/column_lineage"].deps_by_column
        for name, spec in specs.items()
        if "dagster/column_lineage" in spec.metadata
    }
    assert set(printed) == {"daily_listening", "music_personality"}
    for name, lineage in printed.items():
        assert set(lineage) <= columns[specs[name].key]
        for deps in lineage.values():
            assert deps
            assert [d for d in deps if d.column_name not in columns[d.asset_key]] == []
    # Every metric is computed from something.
    metrics = {metric.column for metric in METRICS}
    assert metrics <= printed["music_personality"].keys()


def test_the_column_types_are_those_of_postgres(specs: dict[str, dg.AssetSpec]) -> None:
    schema = specs["daily_listening"].metadata["dagster/column_schema"]
    types = {column.name: column.type.lower() for column in schema.columns}
    assert types["date"] == "date"
    assert types["listened_ms"] == "bigint"


def test_schedules_and_sensors_run_by_default(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    crons = {
        "nightly_sync": "0 3 * * *",
        "plays_poll": "*/15 * * * *",
        "weekly_top_refresh": "0 3 * * 1",
    }
    for name, cron in crons.items():
        assert schedules[name].cron_schedule == cron
        assert schedules[name].execution_timezone == "UTC"
    assert {"sync_request_sensor", "partition_reconciler", "alert_sensor"} <= sensors.keys()
    assert {schedule.default_status for schedule in schedules.values()} == {
        dg.DefaultScheduleStatus.RUNNING
    }
    assert {sensor.default_status for sensor in sensors.values()} == {
        dg.DefaultSensorStatus.RUNNING
    }


def test_the_code_location_loads_without_what_only_a_sync_needs() -> None:
    """Every run is a fresh process that loads it."""
    heavy = (
        "pandas",
        "numpy",
        "requests",
        "alembic",
        "altair",
        "plotly",
        "nacl",
    )
    code = (
        "import json, sys\n"
        "from spotify_pipeline.definitions import defs\n"
        "loaded = defs()\n"
        "loaded.resolve_job_def('sync_user'), loaded.resolve_job_def('sync_users')\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={}
    )
    assert json.loads(printed.stdout) == []
