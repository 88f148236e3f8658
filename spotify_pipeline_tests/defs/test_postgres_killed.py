"""Postgres dies under everything that runs: all of it goes on, and so does a request."""

from pathlib import Path

import pytest

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.engine import make_engine
from spotify_pipeline.storage.schema import init_db
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.crashes.killing import kill_postgres
from spotify_pipeline_tests.defs.theatre import midway, open_theatre

pytestmark = pytest.mark.xdist_group("daemon")


def test_a_request_outlives_the_postgres_that_it_and_dagster_are_kept_in(tmp_path: Path) -> None:
    home = tmp_path / "server"
    with embedded.start(home) as server:
        admin = make_engine(server.url("postgres"))
        with temporary_database(admin, "template0") as ours:
            engine = make_engine(ours)
            init_db(engine)
            engine.dispose()
            name = str(ours.database)
            with open_theatre(admin, name, "template0", tmp_path / "home") as theatre:
                someone = midway(theatre, "max")
                kill_postgres(home)
                theatre.stage.simulator.clear_faults()
                status, code, _ = someone.ends()
                assert (status, code) == ("succeeded", None)
                assert len(theatre.stage.rows(t.plays, "max")) == 50
                theatre.stack.check()
        admin.dispose()
