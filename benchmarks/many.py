"""What takes longer the more users there are: choosing, listing, checking, retention, partitions.

    python -m benchmarks.many [--users 100000] [--night 500]

The users are generated: connected, with three plays each and their days. Retention deletes a run
that materialized three assets of every user, half of which a later run materialized again.
`--night` adds a night of so many users against the simulator.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import click
import dagster as dg
from sqlalchemy import Connection, text

from benchmarks.histories import fill_catalogue, fill_crowd
from benchmarks.machine import cpu_seconds, spent_by
from benchmarks.world import fleet
from spotify_pipeline.app import request_sync
from spotify_pipeline.defs.checks import CHECKS, evaluate
from spotify_pipeline.defs.in_process import opened_instance, sync_many
from spotify_pipeline.defs.instance.event_batches import store_materializations
from spotify_pipeline.defs.instance.retention import delete_old_runs
from spotify_pipeline.defs.partitions import partition_reconciler
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.embedded.client import running_server
from spotify_pipeline.storage.postgres.database import open_dagster_engine
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.sync.runs import choose

Result = TypeVar("Result")

ASSETS = ("recently_played", "daily_listening", "music_personality")
KEEP = timedelta(days=30)
CONNECTED = """
    INSERT INTO spotify_pipeline.user_tokens
        (user_id, client_id, sealed_refresh_token, key_id, authorized_at)
    SELECT user_id, 'benchmark', 'sealed', 'key', now() FROM spotify_pipeline.users;
    UPDATE spotify_pipeline.users SET connection = 'connected'"""
# The events of user1, once more for every other user.
MULTIPLIED = """
    INSERT INTO event_logs
        (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    SELECT e.run_id, replace(e.event, '"user1"', '"user' || n || '"'), e.dagster_event_type,
        e.timestamp, e.step_key, e.asset_key, 'user' || n
    FROM event_logs AS e, generate_series(2, :users) AS n
    WHERE e.run_id = :run_id AND e.partition = 'user1' AND n % :every = 0"""
AGED = "UPDATE runs SET update_timestamp = now() - interval '60 days' WHERE run_id = :run_id"


@dg.op
def materialize(context: dg.OpExecutionContext) -> None:
    """The events of one user, to be multiplied."""
    of_user = [dg.AssetMaterialization(asset, partition="user1") for asset in ASSETS]
    store_materializations(context, of_user)


def stored_run(instance: dg.DagsterInstance, conn: Connection, users: int, every: int) -> str:
    """A finished run that materialized the assets of users 1, `every`, 2 `every` …; its id."""
    job = dg.GraphDefinition(name="many", node_defs=[materialize]).to_job()
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    run_id = job.execute_in_process(instance=instance, run_config=quiet).run_id
    conn.execute(text(MULTIPLIED), {"users": users, "run_id": run_id, "every": every})
    return run_id


def measured(name: str, work: Callable[[], Result], postgres: int | None = None) -> Result:
    """Prints the time of the work, and the CPU of this process and of Postgres (its pid)."""
    server = cpu_seconds(postgres) if postgres else 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    server = cpu_seconds(postgres) - server if postgres else 0.0
    show(name, wall, cpu, server)
    return result


def measured_command(postgres: int, *arguments: str) -> None:
    """Prints the time, CPU and memory of a command whose output is discarded."""
    program = [sys.executable, "-m", "spotify_pipeline.cli.main", *arguments]
    server = cpu_seconds(postgres)
    spent = spent_by(["sh", "-c", '"$@" > /dev/null 2>&1 || true', "sh", *program])
    server = cpu_seconds(postgres) - server
    name = " ".join(arguments)
    show(name, spent.wall_seconds, spent.cpu_seconds, server, f"{spent.peak_mb:.0f} MB")


def show(name: str, wall: float, ours: float, server: float, memory: str = "") -> None:
    """A line of the table."""
    load = os.getloadavg()[0]
    click.echo(f"{name:<28}{wall:>9.2f}{ours:>9.2f}{server:>10.2f}{memory:>9}{load:>7.1f}")


@click.command()
@click.option("--users", default=100_000, show_default=True, help="Generated users.")
@click.option("--night", default=0, help="Users of a night against the simulator; 0: none.")
def main(users: int, night: int) -> None:
    """Print a line per figure."""
    if night:
        nightly(night)
    with tempfile.TemporaryDirectory(prefix="many_") as home, ExitStack() as stack:
        os.environ |= {
            "SPOTIFY_PIPELINE_HOME": home,
            "SPOTIFY_CLIENT_ID": "benchmark",
            "PYTHONWARNINGS": "ignore",
        }
        settings = load_settings()
        pipeline = stack.enter_context(open_pipeline(settings))
        instance = stack.enter_context(opened_instance(settings))
        ours = pipeline.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        theirs = open_dagster_engine(settings).connect()
        theirs = stack.enter_context(theirs.execution_options(isolation_level="AUTOCOMMIT"))
        conn = stack.enter_context(ours)
        fill_catalogue(conn)
        fill_crowd(conn, users, datetime.now(UTC), plays=3)
        conn.exec_driver_sql(CONNECTED)
        conn.exec_driver_sql("VACUUM ANALYZE")
        running = running_server(Path(home))
        assert running is not None
        server = running.pid
        click.echo(f"{'seconds':<28}{'wall':>9}{'ours':>9}{'Postgres':>10}{'memory':>9}{'load':>7}")
        for name in ("active", "due"):
            choosing = partial(choose, pipeline, str(uuid4()), name, 100)
            measured(f"choose {name}", choosing, server)
        measured("request_sync", lambda: request_sync(conn, "user1"), server)
        measured_command(server, "users", "list")
        measured_command(server, "users", "list", "--json")
        measured_command(server, "doctor")
        names = {check.name for check in CHECKS}
        results = measured("hourly checks", lambda: list(evaluate(pipeline, names)), server)
        context = dg.build_sensor_context(instance, resources={"pipeline": PipelineResource()})
        for name in ("first tick of partitions", "another tick of partitions"):
            measured(name, lambda: partition_reconciler(context), server)
        old = stored_run(instance, theirs, users, 1)
        stored_run(instance, theirs, users, 2)
        theirs.exec_driver_sql("VACUUM ANALYZE")
        theirs.execute(text(AGED), {"run_id": old})
        while instance.get_runs_count(dg.RunsFilter(run_ids=[old])):
            measured("tick of retention", lambda: delete_old_runs(instance, KEEP), server)
        (sums,) = (result for result in results if result.check_name == "days_sum_to_plays")
        click.echo(f"days_sum_to_plays looked at {sums.metadata['looked at'].value}")


def nightly(users: int) -> None:
    """A night of connected listeners, after their first sync and a day of listening."""
    with fleet(users, 16) as world:
        choices = {"first sync": timedelta(0), "night": timedelta(days=1)}
        for name, later in choices.items():
            world.simulator.advance(later)
            done = measured(
                f"{name} of {users:,} users",
                lambda: sync_many(world.instance, str(uuid4()), "eligible").success,
            )
            if not done:
                raise click.ClickException("The run failed.")


if __name__ == "__main__":
    main()
