"""Syncs through Dagster in this process, and rebuilds without Spotify."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from sqlalchemy import create_engine, delete, func, select, text, update

from spotify_pipeline.domain.error_codes import WHAT_TO_DO
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.cli.conftest import only_line

# The second line only where it took longer than five seconds.
PROGRESS = {"Syncing: 1 to do", "Syncing: 1 of 1"}


def plays_of(engine, user_id):
    with engine.connect() as conn:
        return conn.scalar(select(func.count()).where(t.plays.c.user_id == user_id))


@pytest.fixture
def dagster_runs(dagster):
    """What Dagster has recorded, newest first: (job, status, the run as stored)."""

    def runs():
        engine = create_engine(dagster.set(drivername="postgresql+psycopg"))
        with engine.connect() as conn:
            rows = conn.execute(
                text("SELECT pipeline_name, status, run_body FROM runs ORDER BY id DESC")
            ).all()
        engine.dispose()
        return rows

    return runs


def test_one_user_is_synced_by_the_job_sync_user(run, listener, engine, dagster_runs):
    listener("mira", "Europe/Oslo")
    result = run("sync", "mira")
    assert result.exit_code == 0, result.output
    assert plays_of(engine, "mira") == 50
    assert result.stdout.startswith("mira is up to date: 50 new plays, ")
    assert set(result.stderr.splitlines()) <= PROGRESS
    assert dagster_runs()[0][:2] == ("sync_user", "SUCCESS")


def test_a_sync_that_finds_nothing_new_imports_no_pandas(run, listener, simulator, dagster):
    # It is noon there, and another day would be something new.
    listener("mira", f"Etc/GMT{datetime.now(UTC).hour - 12:+d}")
    simulator.set_clock(simulator.now())
    code = (
        "import atexit, sys; from spotify_pipeline.cli.main import main\n"
        "atexit.register(lambda: print({'numpy', 'pandas'} & sys.modules.keys()))\n"
        "sys.argv[1:] = ['sync', 'mira']; main()"
    )
    try:
        assert run("sync", "mira").exit_code == 0
        again = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    finally:
        simulator.set_clock(None)
    assert again.stdout == "mira is up to date: 0 new plays, 0 new days.\nset()\n"


def test_several_users_are_synced_in_one_run_that_names_no_user_and_failures_are_printed(
    run, listener, engine, dagster_runs
):
    listener("mira")
    listener("revoked-canary", token="AQ-not-a-token-of-anybody")
    listener("kenji")
    result = run("sync", "mira", "revoked-canary", "kenji", "mira")
    assert result.exit_code == 1
    assert [plays_of(engine, user) for user in ("mira", "kenji", "revoked-canary")] == [50, 50, 0]
    assert result.stdout == "2 of 3 users synced, 100 new plays.\n"
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("revoked-canary")]
    assert line.startswith(f"revoked-canary: RECONNECT. {WHAT_TO_DO['RECONNECT']}")
    assert "1 of 3 users failed" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    job, status, body = dagster_runs()[0]
    # To connect again is up to the user: no failure of the run.
    assert (job, status) == ("sync_users", "SUCCESS")
    assert "mira" not in body
    assert "canary" not in body


def test_dagsters_own_log_does_not_flood_the_terminal(process, listener, dagster):
    listener("revoked", token="AQ-not-a-token-of-anybody")
    result = process("sync", "revoked")
    assert result.returncode == 1
    *progress, failure = result.stderr.splitlines()
    assert set(progress) <= PROGRESS
    assert failure.startswith("Error: revoked: RECONNECT.")
    assert result.stdout == ""


def test_the_progress_bar_survives_dagsters_redirection_of_output(
    on_a_terminal, listener, dagster, simulator
):
    listener("mira")
    simulator.add_fault(Latency(seconds=3.0), endpoint="recently_played", times=1)
    shown = on_a_terminal("sync", "mira")
    assert "1/1" in shown
    assert "mira is up to date" in shown
    drawn_at = [int(seconds) for seconds in re.findall(r"0:00:(\d\d)", shown)]
    assert drawn_at[-1] >= 3
    assert max(later - earlier for earlier, later in pairwise(drawn_at)) < 3


def test_a_failed_sync_of_one_user_prints_code_and_remedy(run, listener, dagster):
    listener("mira", token="AQ-not-a-token-of-anybody")
    result = run("sync", "mira")
    assert result.exit_code == 1
    assert f"Error: mira: RECONNECT. {WHAT_TO_DO['RECONNECT']}" in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(run("users", "list", "--failed", "--json").stdout) == []
    (shown,) = json.loads(run("users", "list", "--json").stdout)
    assert (shown["connection"], shown["state"]) == ("needs_reauth", "never")


def test_a_selection_is_synced_and_an_empty_one_is_no_failure(run, listener, engine, dagster):
    listener("mira")
    listener("gone")
    with engine.begin() as conn:
        u = t.users
        conn.execute(update(u).where(u.c.user_id == "gone").values(connection="needs_reauth"))
    synced = run("sync", "--due")
    assert synced.exit_code == 0
    assert synced.stdout == "1 of 1 user synced, 50 new plays.\n"
    without_users = run("sync", "--due")
    assert without_users.exit_code == 0
    assert without_users.stdout.startswith("There is no user to sync.")
    assert run("sync", "--all").stdout == "1 of 1 user synced, 0 new plays.\n"


def test_an_unknown_user_stops_the_command_before_any_sync(run, listener, engine, simulator):
    listener("mira")
    simulator.forget_calls()
    for arguments in (("mira", "nobody"), ("nobody",)):
        result = run("sync", *arguments)
        assert result.exit_code == 2
        assert "There is no user nobody" in only_line(result)
    assert simulator.calls() == []
    with engine.connect() as conn:
        assert conn.scalar(select(func.count()).select_from(t.sync_run_users)) == 0


def test_without_a_client_id_no_sync_is_tried(run, environ):
    environ.delenv("SPOTIFY_CLIENT_ID")
    result = run("sync", "--all")
    assert result.exit_code == 2
    assert "SPOTIFY_CLIENT_ID is not set" in only_line(result)


def test_a_missing_database_of_dagster_is_named(run, listener, environ, database):
    listener("mira")
    url = database.set(drivername="postgresql", database="no_dagster_here")
    environ.setenv("DAGSTER_PG_URL", url.render_as_string(hide_password=False))
    result = run("sync", "mira")
    assert result.exit_code == 2
    assert "no_dagster_here" in result.stderr.splitlines()[-1]
    assert "DAGSTER_PG_URL" in result.stderr.splitlines()[-1]


def test_rebuild_computes_the_same_days_again_without_asking_spotify(
    run, listener, engine, dagster, simulator, environ
):
    listener("mira", "Europe/Oslo")
    listener("kenji", "Asia/Tokyo")
    assert run("sync", "--all").exit_code == 0
    d = t.daily_listening
    days = select(d).with_only_columns(*(c for c in d.c if c.name != "computed_at"))
    days = days.order_by(d.c.user_id, d.c.date)
    with engine.begin() as conn:
        before = conn.execute(days).all()
        conn.execute(delete(d))
    simulator.forget_calls()
    environ.delenv("SPOTIFY_CLIENT_ID")
    result = run("rebuild")
    assert result.exit_code == 0
    assert result.stdout.startswith("2 of 2 users rebuilt, ")
    assert simulator.calls() == []
    with engine.connect() as conn:
        assert conn.execute(days).all() == before
    again = run("rebuild", "mira")
    assert again.stdout == "1 of 1 user rebuilt, 0 rows changed.\n"


def test_rebuild_moves_the_days_of_a_user_who_moved(run, listener, engine, dagster):
    listener("mira", "Pacific/Auckland")
    run("sync", "mira")
    d = t.daily_listening
    with engine.connect() as conn:
        before = conn.execute(select(d.c.date, d.c.plays)).all()
    run("users", "set", "mira", "--timezone", "Pacific/Honolulu")
    assert run("rebuild", "mira").exit_code == 0
    with engine.connect() as conn:
        after = conn.execute(select(d.c.date, d.c.plays)).all()
        assert not conn.scalar(select(t.users.c.days_stale))
    assert after != before
    assert sum(row.plays for row in after) == sum(row.plays for row in before) == 50


def test_rebuilding_an_unknown_user_exits_2(run):
    result = run("rebuild", "nobody")
    assert result.exit_code == 2
    assert "There is no user nobody" in only_line(result)
