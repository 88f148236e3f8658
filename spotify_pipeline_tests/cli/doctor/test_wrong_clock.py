"""A machine whose clock is wrong writes nothing, and what an older version wrote is taken back."""

import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text

from spotify_pipeline.defs import in_process
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync import pipeline
from spotify_pipeline_tests.cli.conftest import only_line


class Ahead(datetime):
    """A clock 40 days ahead, in this process."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + timedelta(days=40)


@pytest.fixture
def faketime():
    """The environment of a process whose clock is 40 days ahead."""
    program = shutil.which("faketime")
    if program is None:
        pytest.skip("faketime is not installed: apt-get install faketime")
    library = os.popen(f"{program} -f +0 printenv LD_PRELOAD").read().strip()
    # Waits inside the process are as long as ever.
    return {"LD_PRELOAD": library, "FAKETIME": "+40d", "DONT_FAKE_MONOTONIC": "1"}


def stored(engine):
    """Every row of ours but the time zones."""
    with engine.connect() as conn:
        return {
            table.name: sorted(map(str, conn.execute(select(table)).all()))
            for table in t.metadata.sorted_tables
            if table.name not in ("time_zones", "day_starts")
        }


def test_a_sync_with_a_clock_40_days_ahead_writes_nothing_and_says_why(
    dagster, listener, process, run, engine, faketime, environ
):
    environ.setenv("TZ", "UTC")
    listener("mira")
    before = stored(engine)
    result = process("sync", "mira", **faketime)
    assert result.returncode == 2, result.stderr
    line = only_line(result)
    assert line.startswith("Error: The clock of this machine says 20")
    assert "nothing was written" in line
    assert stored(engine) == before
    assert "problem  clock: The clock of this machine" in process("doctor", **faketime).stdout
    assert stored(engine) == before
    result = run("sync", "mira")
    assert result.stdout.startswith("mira is up to date: 50 new plays, ")
    with engine.connect() as conn:
        due_at = conn.scalar(select(t.sync_state.c.next_due_at))
    assert due_at <= datetime.now(UTC) + timedelta(hours=1)


def test_a_run_with_a_clock_that_is_wrong_fails_with_the_sentence(
    dagster, listener, engine, monkeypatch
):
    listener("mira")
    before = stored(engine)
    monkeypatch.setattr(pipeline, "datetime", Ahead)
    with in_process.opened_instance(load_settings()) as instance:
        failure = in_process.why_failed(in_process.sync_user(instance, "mira"))
    assert "The clock of this machine says" in failure
    assert stored(engine) == before


@pytest.fixture
def left_behind(dagster, listener, run, engine):
    """Mira was synced well, and then once by an older version under a clock 40 days ahead."""
    listener("mira")
    assert run("sync", "mira").exit_code == 0
    with engine.begin() as conn:
        fetched_at = conn.scalar(select(t.sync_state.c.plays_fetched_at))
        for statement in (
            "UPDATE spotify_pipeline.sync_state SET plays_fetched_at = now() + interval '40 days',"
            " tops_fetched_at = now() + interval '40 days',"
            " last_synced_at = now() + interval '40 days',"
            " last_success_at = now() + interval '40 days',"
            " next_due_at = now() + interval '40 days'",
            "UPDATE spotify_pipeline.coverage SET covered_to = now() + interval '40 days'",
            "INSERT INTO spotify_pipeline.fetch_log (user_id, fetched_at, items, new_plays,"
            " skipped, overlapped) VALUES ('mira', now() + interval '40 days', 0, 0, '{}', true)",
            "UPDATE spotify_pipeline.daily_listening SET completeness = 'complete'",
        ):
            conn.execute(text(statement))
    return fetched_at


def history(engine):
    with engine.connect() as conn:
        rows = conn.execute(
            text("SELECT date, completeness FROM spotify_pipeline.listening_history('mira', 3)")
        )
        return dict(rows.all())


def test_rows_of_a_wrong_clock_are_detected_and_repaired(left_behind, run, engine):
    result = run("doctor")
    assert result.exit_code == 1
    assert "problem  instants: 1 user were fetched, are covered or due in the future" in (
        result.stdout
    )
    assert "`spotify-pipeline doctor --mend`" in result.stdout
    named = run("users", "list", "--check", "no_instants_of_the_future")
    assert "mira" in named.stdout
    mended = run("doctor", "--mend")
    assert mended.exit_code == 0, mended.output
    assert "taken back what a wrong clock left of 1 user" in mended.stdout
    with engine.connect() as conn:
        state = conn.execute(select(t.sync_state)).one()
        covered_to = conn.scalars(select(t.coverage.c.covered_to)).all()
        now = conn.scalar(select(func.now()))
    assert covered_to == [left_behind]
    assert state.plays_fetched_at == left_behind
    assert (state.tops_fetched_at, state.next_due_at) == (None, None)
    assert state.last_synced_at <= now
    assert run("sync", "--due").stdout.startswith("1 of 1 user synced")
    assert history(engine)[now.date()] != "complete"


def test_rows_of_a_wrong_clock_block_no_poll_and_complete_no_day(left_behind, run, engine):
    with engine.begin() as conn:
        # Nothing was heard, so that only coverage can say how complete a day is.
        conn.execute(text("DELETE FROM spotify_pipeline.daily_listening"))
        conn.execute(text("UPDATE spotify_pipeline.users SET days_stale = false"))
    assert "complete" not in history(engine).values()
    assert run("sync", "--due").stdout.startswith("1 of 1 user synced")
    with engine.connect() as conn:
        state = conn.execute(select(t.sync_state)).one()
        now = conn.scalar(select(func.now()))
    assert now - timedelta(minutes=1) < state.plays_fetched_at < now + timedelta(minutes=1)
    assert state.next_due_at < now + timedelta(hours=2)
