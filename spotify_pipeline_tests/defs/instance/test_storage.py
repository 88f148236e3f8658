"""The instance: its storage keeps connections, and nothing that it keeps contains a secret."""

import base64
import gzip
import logging
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.pool import Pool

from spotify_pipeline.defs.in_process import opened_instance, sync_many, sync_user
from spotify_pipeline.defs.instance import retention
from spotify_pipeline.defs.instance.retention import delete_old_runs
from spotify_pipeline.domain.outcome import STEPS
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.faults.refusals import Body
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline_tests.defs.definitions_fixture import key, materialize, materialized
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario


@pytest.fixture
def connections() -> Iterator[list[object]]:
    """Every connection that any engine of this process opens."""
    opened: list[object] = []

    def connected(connection: object, _: object) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", connected)
    yield opened
    event.remove(Pool, "connect", connected)


def test_a_hundred_events_open_no_connection_each(
    scenario: Scenario, instance: dg.DagsterInstance, connections: list[object]
) -> None:
    scenario.connect("anna")
    runs = [materialize(instance, "anna")]
    connections.clear()
    runs += [materialize(instance, "anna") for _ in range(3)]
    assert sum(len(instance.all_logs(run.run_id)) for run in runs[1:]) > 100
    # dagster-postgres's own storage opens 711, with a pool of one connection 30.
    assert len(connections) <= 2


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every statement that any engine of this process executes."""
    executed: list[str] = []

    def executes(*arguments: Any) -> None:
        executed.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", executes)
    yield executed
    event.remove(Engine, "before_cursor_execute", executes)


def test_a_run_does_not_list_the_columns_of_a_table_for_each_asset(
    scenario: Scenario, instance: dg.DagsterInstance, statements: list[str]
) -> None:
    scenario.connect("anna")
    materialize(instance, "anna")
    statements.clear()
    materialize(instance, "anna")
    # dagster-postgres's own storage lists columns 36 times.
    assert sum("pg_catalog.pg_attribute" in statement for statement in statements) < len(STEPS)


def test_a_tick_does_not_list_the_tables(
    instance: dg.DagsterInstance, statements: list[str]
) -> None:
    def tick() -> None:
        instance.get_instigator_state("origin", "selector")
        instance.get_ticks("origin", "selector", limit=1)

    tick()
    statements.clear()
    tick()
    # dagster-postgres's own storage executes 6: it looks for its tables each time.
    assert len(statements) == 2


def test_the_address_of_the_database_is_not_part_of_the_configuration(
    instance: dg.DagsterInstance, environ: dict[str, str]
) -> None:
    """Dagster hands it to child processes on their command lines, which all accounts can read."""
    ref = instance.get_ref()
    password = make_engine(environ["DAGSTER_PG_URL"]).url.password
    assert password
    assert password not in dg.serialize_value(ref)


def test_dagsters_instants_are_utc_on_a_server_of_any_zone(environ: dict[str, str]) -> None:
    """Dagster takes the database's clock without its zone, and reads it as UTC."""
    engine = create_engine(environ["DAGSTER_PG_URL"], isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        name = conn.scalar(text("SELECT current_database()"))
        conn.execute(text(f"ALTER DATABASE \"{name}\" SET timezone = 'Asia/Tokyo'"))
    engine.dispose()
    with opened_instance(load_settings()) as instance:
        instance.create_run_for_job(dg.GraphDefinition("nothing").to_job())
        (record,) = instance.get_run_records()
    assert abs(datetime.now(UTC) - record.create_timestamp) < timedelta(minutes=5)


def test_one_run_at_a_time_for_each_user_and_a_crash_is_tried_again(
    instance: dg.DagsterInstance,
) -> None:
    settings = instance.get_concurrency_config()
    assert {
        "key": "dagster/partition",
        "value": {"applyLimitPerUniqueValue": True},
        "limit": 1,
    } in settings.run_queue_config.tag_concurrency_limits
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries > 0
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.run_monitoring_enabled
    assert not instance.telemetry_enabled


def everything_in(database: URL) -> str:
    """Every row of every table of a database as text; what is compressed also unpacked."""
    engine = create_engine(database.set(drivername="postgresql+psycopg"))
    found: list[str] = []
    with engine.connect() as conn:
        names = conn.scalars(
            text(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
        ).all()
        assert len(names) > 10
        for name in names:
            for row in conn.execute(text(f"SELECT * FROM {name}")):
                found += [readable(value) for value in row]
    engine.dispose()
    return "\n".join(found)


def readable(value: Any) -> str:
    """A value as text, unpacked where Dagster compresses."""
    if isinstance(value, memoryview | bytes):
        raw = bytes(value)
        for unpack in (zlib.decompress, gzip.decompress):
            try:
                return unpack(raw).decode(errors="replace") + raw.decode("latin-1")
            except (zlib.error, OSError):
                pass
        return raw.decode("latin-1")
    return str(value)


def files_in(home: Path) -> str:
    """Every file under the home, as it is and unpacked."""
    return "\n".join(readable(path.read_bytes()) for path in home.rglob("*") if path.is_file())


def forms(secret: str) -> set[str]:
    """A secret as it may be written: plain, escaped, in base64."""
    encoded = base64.b64encode(secret.encode()).decode()
    return {secret, encoded, re.escape(secret)}


def test_no_secret_is_in_dagsters_database_its_files_or_its_logs(
    scenario: Scenario,
    instance: dg.DagsterInstance,
    environ: dict[str, str],
    dagster_database: URL,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Runs as the command line starts them, through the resource that reads the environment."""
    logging.getLogger("spotify_pipeline").setLevel(logging.DEBUG)
    users = [scenario.connect(user_id) for user_id in ("anna", "ben", "dora")]
    assert sync_user(instance, "anna").success
    secrets = {
        "client secret": scenario.simulator.client_secret,
        "private key": environ["SPOTIFY_PIPELINE_TOKEN_KEYS"].partition(":")[2],
        "database password": str(
            make_engine(environ["SPOTIFY_PIPELINE_DATABASE_URL"]).url.password
        ),
        **{f"refresh token of {listener.user_id}": listener.refresh_token for listener in users},
    }
    row = scenario.row(t.user_tokens, "anna")
    secrets["access token"] = scenario.pipeline.keyring.open(
        row["key_id"], row["sealed_access_token"], "anna"
    )
    echo = " ".join(secrets.values())
    scenario.simulator.add_fault(Body(text=echo), endpoint="recently_played", user_id="anna")
    scenario.simulator.add_fault(Body(text=echo, status=403), user_id="ben", endpoint="top_tracks")
    scenario.simulator.revoke("dora")
    assert not sync_user(instance, "anna").success
    assert not sync_many(instance, "00000000-0000-0000-0000-000000000001", "eligible").success
    # A bug, with a secret within reach: Dagster stores the whole traceback.
    scenario.execute("ALTER TABLE spotify_pipeline.sync_state RENAME COLUMN lease_until TO gone")
    assert not sync_user(instance, "anna").success

    stored = everything_in(dagster_database)
    assert "sync_user_assets" in stored
    assert "UndefinedColumn" in stored
    out, err = capfd.readouterr()
    for place, said in {
        "database": stored,
        "files": files_in(tmp_path),
        "output": out + err + caplog.text,
    }.items():
        leaked = [name for name, secret in secrets.items() if any(f in said for f in forms(secret))]
        assert leaked == [], place


def test_the_scan_would_find_what_is_compressed() -> None:
    assert "canary" in readable(zlib.compress(b"a canary"))
    assert "canary" in readable(memoryview(gzip.compress(b"a canary")))


def test_old_runs_go_and_a_partition_that_rests_stays_materialized(
    scenario: Scenario,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "PAGE_SIZE", 3)
    for user_id in ("anna", "ben", "gone"):
        scenario.connect(user_id, kind="light")
    runs = [materialize(instance, user_id) for user_id in ("anna", "ben", "gone")]
    runs.append(materialize(instance, "ben"))
    instance.delete_dynamic_partition("spotify_users", "gone")
    before = materialized(instance)
    times = latest_times(instance)
    assert [path for path in tmp_path.rglob("*") if runs[0].run_id in str(path)]
    assert delete_old_runs(instance, timedelta(days=1))["dagster runs deleted"] == 0
    done = delete_old_runs(instance, timedelta(0))
    # Ben's first run was replaced by his second, and the third user was deleted.
    assert done == {"dagster runs deleted": 4, "latest materializations kept": 20}
    assert instance.get_runs_count() == 0
    assert all(instance.all_logs(run.run_id) == [] for run in runs)
    assert [path for path in tmp_path.rglob("*") if runs[0].run_id in str(path)] == []
    users = {at: materialization for at, materialization in before.items() if at[1] != "gone"}
    assert materialized(instance) == users
    assert latest_times(instance) == {at: time for at, time in times.items() if at in users}
    # Kept events do not pile up: what replaced one deletes it, when its own run is deleted.
    materialize(instance, "anna")
    delete_old_runs(instance, timedelta(0))
    after = instance.fetch_materializations(key(STEPS[0]), limit=100).records
    assert sorted((record.partition_key, record.run_id) for record in after) == [
        ("anna", ""),
        ("ben", ""),
    ]


def test_a_tick_of_retention_that_runs_out_of_time_is_continued_by_the_next(
    scenario: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario.connect("anna", kind="light")
    run = materialize(instance, "anna")
    before = materialized(instance)
    events = len(instance.all_logs(run.run_id))
    monkeypatch.setattr(retention, "PAGE_SIZE", events - 5)
    assert delete_old_runs(instance, timedelta(0), seconds=0)["dagster runs deleted"] == 0
    assert len(instance.all_logs(run.run_id)) == 5
    assert materialized(instance) == before
    assert delete_old_runs(instance, timedelta(0))["dagster runs deleted"] == 1
    assert instance.get_runs_count() == 0
    assert materialized(instance) == before


def latest_times(instance: dg.DagsterInstance) -> dict[tuple[str, str | None], float]:
    """When each asset of each partition was last materialized, as the UI shows it."""
    found = {}
    for step in STEPS:
        for record in instance.fetch_materializations(key(step), limit=100).records:
            found.setdefault((step, record.partition_key), record.timestamp)
    return found
