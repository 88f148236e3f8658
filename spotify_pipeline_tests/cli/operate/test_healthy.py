"""`healthy` exits 1 while a part of the pipeline does not live, and 0 when all of it does.

That a real daemon's heartbeat counts is in defs/cluster/test_daemon.py.
"""

import json
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest
from sqlalchemy import Connection, text

from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline_tests.cli.conftest import only_line, with_password
from spotify_pipeline_tests.crashes.killed_workers import kill_postgres
from spotify_pipeline_tests.storage.rows import add_user, connect, request_sync

PARTS = {"database", "polls", "requests", "daemon"}


@pytest.fixture(scope="module")
def dagsters_tables(_dagster_database) -> None:
    """Dagster's tables, in the database that these tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_PG_URL", with_password(_dagster_database))
        with opened_instance(load_settings()):
            pass


@pytest.fixture
def beat(dagster, dagsters_tables):
    """Writes a heartbeat as Dagster's daemon does, so long ago."""
    engine = make_engine(dagster, settings={})

    def beat(ago: timedelta = timedelta(0), thread: str = "SENSOR", daemon: str = "d") -> None:
        with engine.begin() as conn:
            conn.execute(
                text(
                    "INSERT INTO daemon_heartbeats (daemon_type, daemon_id, timestamp) VALUES"
                    " (:thread, :daemon, now() AT TIME ZONE 'UTC' - CAST(:ago AS interval))"
                    " ON CONFLICT (daemon_type) DO UPDATE SET timestamp = excluded.timestamp,"
                    " daemon_id = excluded.daemon_id"
                ),
                {"thread": thread, "daemon": daemon, "ago": ago},
            )

    with engine.begin() as conn:
        # Of the daemons of other tests.
        conn.execute(text("DELETE FROM daemon_heartbeats"))
    beat()
    yield beat
    with engine.begin() as conn:
        conn.execute(text("DELETE FROM daemon_heartbeats"))
    engine.dispose()


@pytest.fixture
def stale(run):
    """Calls `healthy`; returns which parts are stale, and checks that the exit code says so."""

    def stale(*options: str) -> set[str]:
        result = run("healthy", "--json", *options)
        signs = json.loads(result.stdout)
        found = {sign["part"] for sign in signs if sign["stale"]}
        assert result.exit_code == bool(found), result.output
        assert {sign["part"] for sign in signs} <= PARTS
        return found

    return stale


def late(connection: Connection, user_id: str, ago: str) -> None:
    """A connected user who is due and was polled so long ago."""
    add_user(connection, user_id)
    connect(connection, user_id)
    connection.execute(
        text(
            "UPDATE spotify_pipeline.sync_state SET next_due_at = now() - CAST(:ago AS interval),"
            " plays_fetched_at = now() - CAST(:ago AS interval) WHERE user_id = :user_id"
        ),
        {"ago": ago, "user_id": user_id},
    )


def test_a_heartbeat_of_61_seconds_or_a_thread_that_hangs_is_stale(stale, beat):
    assert stale() == set()
    beat(timedelta(seconds=61))
    assert stale() == {"daemon"}
    assert stale("--only", "database", "--only", "polls") == set()
    beat()
    beat(timedelta(minutes=11), thread="SCHEDULER")
    assert stale() == {"daemon"}
    beat(timedelta(days=9), thread="SCHEDULER", daemon="one that ended")
    assert stale() == set()


def test_a_daemon_without_a_heartbeat_is_stale(stale, beat, connection):
    beat(timedelta(days=1))
    assert stale("--only", "daemon") == {"daemon"}


def test_due_users_whom_no_poll_reached_for_an_hour_are_stale(stale, beat, connection):
    late(connection, "ada", "2 hours")
    assert stale() == {"polls"}
    late(connection, "ben", "10 minutes")
    assert stale() == set(), "one poll that succeeds shows that polls are made"


@pytest.mark.parametrize(
    "waiting",
    [
        "blocked_until = now() + interval '9 hours', blocked_reason = 'QUOTA'",
        "blocked_until = now() - interval '9 minutes', blocked_reason = 'RATE'",
        "outage_until = now() + interval '5 minutes'",
        "day_calls = '{800}', day_slot = extract(epoch FROM now()) / 900",
    ],
)
def test_polls_that_wait_for_spotify_are_healthy(stale, beat, connection, waiting):
    late(connection, "ada", "2 hours")
    connection.exec_driver_sql(f"UPDATE spotify_pipeline.api_budget SET {waiting}")
    assert stale() == set()


def test_a_request_that_waits_longer_than_five_minutes_is_stale(stale, beat, connection):
    late(connection, "ada", "0 minutes")
    request_sync(connection)
    assert stale() == set()
    connection.exec_driver_sql(
        "UPDATE spotify_pipeline.sync_requests SET requested_at = now() - interval '6 minutes'"
    )
    assert stale() == {"requests"}


def test_a_newer_schema_is_a_stale_database_and_says_what_to_do(run, beat, connection):
    connection.exec_driver_sql("UPDATE spotify_pipeline.alembic_version SET version_num = '9999'")
    result = run("healthy")
    assert result.exit_code == 1
    assert "upgrade spotify_pipeline" in result.stdout
    assert "database" in only_line(result)


def test_without_an_embedded_server_nothing_is_started_or_made(run, environ, tmp_path):
    environ.delenv("SPOTIFY_PIPELINE_DATABASE_URL")
    home = tmp_path / "home"
    result = run("healthy")
    assert result.exit_code == 1
    assert "does not run" in result.stdout
    assert not home.exists()


def test_a_postgres_that_is_killed_or_hangs_is_stale_until_it_is_back(process, environ, tmp_path):
    home = tmp_path / "server"
    with embedded.start(home) as server:
        environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(server.url()))
        engine = make_engine(server.url())
        init_db(engine)
        engine.dispose()
        ours = ("healthy", "--only", "database", "--only", "polls", "--only", "requests")
        assert process(*ours).returncode == 0
        running = embedded.running_server(home)
        postmaster = psutil.Process(running.pid)
        postmaster.suspend()
        began = time.monotonic()
        hung = process(*ours)
        assert time.monotonic() - began < 60
        assert (hung.returncode, "stale  database" in hung.stdout) == (1, True)
        postmaster.resume()
        assert process(*ours).returncode == 0
        kill_postgres(home)
    # The last to leave ends the server, also one that the supervisor has started anew.
    deadline = time.monotonic() + 60
    while process(*ours).returncode != 1:
        assert time.monotonic() < deadline
    with embedded.start(home) as server:
        environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(server.url()))
        assert process(*ours).returncode == 0


def test_healthy_imports_no_heavy_library():
    asks = (
        "import sys, spotify_pipeline.cli.operate.health;"
        "print([m for m in ('dagster', 'pandas', 'requests', 'alembic') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
