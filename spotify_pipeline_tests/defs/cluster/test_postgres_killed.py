"""Postgres dies under everything that runs: all of it goes on, and so does a request."""

import os
from pathlib import Path

import psutil
import pytest
from sqlalchemy import make_url

from spotify_pipeline.cli.local.dagster_processes import CODE_SERVER
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.crashes.killed_workers import kill_postgres
from spotify_pipeline_tests.defs.dagster_cluster import (
    SECONDS,
    DagsterCluster,
    midway,
    open_cluster,
    pid_of,
)

pytestmark = pytest.mark.xdist_group("daemon")


def test_a_request_survives_a_restart_of_postgres(tmp_path: Path) -> None:
    home = tmp_path / "server"
    with embedded.start(home) as server:
        admin = make_engine(server.url("postgres"))
        with temporary_database(admin, "template0") as ours:
            engine = make_engine(ours)
            init_db(engine)
            engine.dispose()
            name = str(ours.database)
            with open_cluster(admin, name, "template0", tmp_path / "home") as cluster:
                someone = midway(cluster, "max")
                kill_postgres(home)
                cluster.scenario.simulator.clear_faults()
                status, code, _ = someone.ends()
                assert (status, code) == ("succeeded", None)
                assert len(cluster.scenario.rows(t.plays, "max")) == 50
                cluster.stack.check()
        admin.dispose()


def test_a_code_server_ends_though_the_death_of_its_run_cannot_be_reported(
    cluster: DagsterCluster,
) -> None:
    rita = midway(cluster, "rita")
    run = psutil.Process(pid_of(cluster.instance, rita.run_id))
    dagsters = make_url(os.environ["DAGSTER_PG_URL"]).database
    cluster.scenario.execute(f'ALTER DATABASE "{dagsters}" ALLOW_CONNECTIONS false')
    cluster.scenario.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name",
        name=dagsters,
    )
    run.kill()
    (server,) = (child for child in cluster.stack.children if child.name == CODE_SERVER)

    def tried() -> bool:
        return "could not be reported" in server.log.path.read_text()

    cluster.stack.wait(SECONDS, tried, "the report of a dead run")
    server.process.terminate()
    server.process.join(SECONDS)
    assert server.process.exitcode == 0
