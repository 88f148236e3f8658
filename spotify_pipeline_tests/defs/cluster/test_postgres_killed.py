"""Postgres dies under everything that runs: all of it goes on, and so does a request."""

from pathlib import Path

import pytest

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.crashes.killed_workers import kill_postgres
from spotify_pipeline_tests.defs.dagster_cluster import midway, open_cluster

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
