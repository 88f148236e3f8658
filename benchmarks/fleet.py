"""The cost of syncing many users in one run, compared with bare calls, single runs and a loop.

    python -m benchmarks.fleet [--users 1000] [--latency 0.05] [--out FILE]

Everything is real but Spotify: runs of the job sync_users launched in a running code server,
webserver and daemon, Dagster's storage and our data in an embedded Postgres. "Ours" is the CPU of
them all, from the launch to the end. There are no rate limits, and every access token has expired,
so that each user needs the same eight calls (and at first one more, for the profile).

    simulator    the bare calls without latency: the speed of the simulator itself
    floor        a bare loop with as many threads makes the calls and discards the responses
    first        the first sync_users of all users
    nightly      sync_users again after a day of listening
    again        sync_users again without changes
    one by one   a run of sync_user per user, measured on a few
    plain loop   the calls alone, user after user with pauses of 2 s, measured on a few
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import click
import dagster as dg
import psutil
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster_graphql import DagsterGraphQLClient
from sqlalchemy import text

from benchmarks.bare import CALLS_PER_USER, one_by_one, side_by_side
from benchmarks.machine import RESULTS, Spent, cpu_seconds, save, spent_by
from benchmarks.split import cpu_split
from benchmarks.world import Fleet, fleet
from spotify_pipeline.cli.local.dagster_processes import Stack, free_port, running_stack
from spotify_pipeline.defs.build import build_defs

# As in the executor of sync_users.
PROCESSES = 2
PAUSE_SECONDS = 2.0
FLOOR_FACTOR, CPU_FACTOR = 1.3, 30.0


@dataclass(frozen=True)
class Row:
    """One measurement on `measured` users. Wall time is projected to all, CPU is per user."""

    name: str
    measured: int
    wall_seconds: float
    cpu_ms: float
    postgres_ms: float
    simulator_ms: float
    peak_mb: float
    # Load average of the last minute: other processes make wall times longer.
    load: float

    def line(self) -> str:
        return (
            f"{self.name:<11}{self.measured:>7}{self.wall_seconds:>10.1f}{self.cpu_ms:>9.1f}"
            f"{self.postgres_ms:>10.1f}{self.simulator_ms:>10.1f}{self.peak_mb:>9.0f}{self.load:>7.1f}"
        )


HEAD = (
    "                      wall, CPU, ms per user:        peak MB of\n"
    "             users    all, s     ours  Postgres Simulator  a process   load"
)


class Bench:
    """Runs the measurements on the same listeners."""

    def __init__(self, world: Fleet, stack: Stack, threads: int, chunk_size: int) -> None:
        self.world = world
        self.stack = stack
        self.ui = DagsterGraphQLClient(stack.url.removeprefix("http://"))
        # All processes of Dagster, and runs, are below the one that they are forked from.
        (self.servers,) = (
            child for child in psutil.Process().children() if child.name() == "warm process"
        )
        self.threads = threads
        self.chunk_size = chunk_size
        self.rows: list[Row] = []

    def measure(self, name: str, work: Callable[[], Spent], measured: int | None = None) -> Row:
        """Runs the work and records its cost, ours and that of the processes beside us."""
        users = len(self.world.listeners)
        measured = measured or users
        postgres, simulator = self.world.cpu_of_postgres(), self.world.cpu_of_simulator()
        spent = work()
        per_user = 1000 / measured
        row = Row(
            name,
            measured,
            spent.wall_seconds * users / measured,
            spent.cpu_seconds * per_user,
            (self.world.cpu_of_postgres() - postgres) * per_user,
            (self.world.cpu_of_simulator() - simulator) * per_user,
            spent.peak_mb,
            os.getloadavg()[0],
        )
        self.rows.append(row)
        click.echo(row.line())
        return row

    def floor(self) -> Spent:
        """The calls alone, in parallel."""
        world = self.world
        return _here(lambda: side_by_side(world.simulator, world.listeners, self.threads))

    def plain_loop(self, few: int) -> Spent:
        """The calls alone, in sequence."""
        world = self.world
        return _here(lambda: one_by_one(world.simulator, world.listeners[:few], PAUSE_SECONDS))

    def sync_users(self) -> Spent:
        """One run of the job for all users, launched in the UI."""
        self._end_access_tokens()
        chosen = {"selection": "eligible", "chunk_size": self.chunk_size}
        config = {"ops": {"choose_users": {"config": chosen}}}
        started, before = time.monotonic(), cpu_seconds(self.servers.pid)
        run_id = self.ui.submit_job_execution("sync_users", run_config=config)
        peak_mb = 0.0

        def ended() -> bool:
            nonlocal peak_mb
            peak_mb = max(peak_mb, *map(resident_mb, self.servers.children(recursive=True)))
            run = self.world.instance.get_run_by_id(run_id)
            return run is not None and run.is_finished

        self.stack.wait(3600, ended, "the run")
        wall = time.monotonic() - started
        self._check_outcomes(run_id)
        return Spent(wall, cpu_seconds(self.servers.pid) - before, peak_mb)

    def one_run_each(self, few: int) -> Spent:
        """`spotify-pipeline sync USER` for a few: a run of sync_user in its own process."""
        self._end_access_tokens()
        program = [sys.executable, "-c", "from spotify_pipeline.cli.main import main; main()"]
        spent = [
            spent_by([*program, "sync", listener.user_id])
            for listener in self.world.listeners[:few]
        ]
        return Spent(
            sum(process.wall_seconds for process in spent),
            sum(process.cpu_seconds for process in spent),
            max(process.peak_mb for process in spent),
        )

    def split(self) -> dict[str, float]:
        """Our CPU per part in a chunk after a day of listening, in ms per user."""
        self.next_day()
        self._end_access_tokens()
        some = [listener.user_id for listener in self.world.listeners[: self.chunk_size]]
        return cpu_split(self.world.instance, self.world.pipeline, some)

    def next_day(self) -> None:
        """Advances a day; the simulator computes that day's top lists in advance."""
        self.world.simulator.advance(timedelta(days=1))
        self.floor()

    def _end_access_tokens(self) -> None:
        ended = (
            "UPDATE spotify_pipeline.user_tokens SET access_expires_at = now()"
            " WHERE access_expires_at IS NOT NULL"
        )
        with self.world.pipeline.engine.begin() as conn:
            conn.execute(text(ended))

    def _check_outcomes(self, run_id: str) -> None:
        statement = text(
            "SELECT outcome, count(*) FROM spotify_pipeline.sync_run_users WHERE run_id = :run"
            " GROUP BY outcome"
        )
        with self.world.pipeline.engine.connect() as conn:
            outcomes = {outcome: n for outcome, n in conn.execute(statement, {"run": run_id})}
        if outcomes != {"synced": len(self.world.listeners)}:
            raise click.ClickException(f"Not all users were synced: {outcomes}")


def stop_schedules(stack: Stack, instance: dg.DagsterInstance) -> None:
    """A poll would sync users while they are measured."""
    schedules = list(build_defs().schedules or ())

    def all_stopped() -> bool:
        # The daemon stores their states at the first full minute.
        states = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
        for state in states:
            instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))
        return len(states) == len(schedules)

    stack.wait(120, all_stopped, "Stopping the schedules")


def resident_mb(process: psutil.Process) -> float:
    """Memory of a process, shared pages included; 0 when it has ended."""
    with suppress(psutil.NoSuchProcess):
        return float(process.memory_info().rss / 2**20)
    return 0.0


def _here(work: Callable[[], None]) -> Spent:
    """The cost of work in this process."""
    started, before = time.monotonic(), time.process_time()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Spent(time.monotonic() - started, time.process_time() - before, peak)


def verdicts(rows: Sequence[Row]) -> dict[str, object]:
    """Compares the nightly run with the targets."""
    by_name = {row.name: row for row in rows}
    floor, nightly, single = (by_name[name] for name in ("floor", "nightly", "one by one"))
    allowed = FLOOR_FACTOR * floor.wall_seconds
    less_cpu = single.cpu_ms / nightly.cpu_ms
    return {
        "wall_seconds": nightly.wall_seconds,
        "wall_seconds_allowed": allowed,
        "wall_is_met": nightly.wall_seconds <= allowed,
        "times_less_cpu_than_single_runs": less_cpu,
        "times_less_cpu_wanted": CPU_FACTOR,
        "cpu_is_met": less_cpu >= CPU_FACTOR,
        "times_faster_than_plain_loop": by_name["plain loop"].wall_seconds / nightly.wall_seconds,
    }


def report(split: dict[str, float], verdict: dict[str, object]) -> None:
    """Prints the figures below the table."""
    click.echo("\nCPU of a chunk in one process, ms per user")
    for part, ms in split.items():
        click.echo(f"  {part:<15}{ms:8.2f}")
    click.echo()
    for name, figure in verdict.items():
        shown = f"{figure:.1f}" if isinstance(figure, float) else str(figure)
        click.echo(f"{name.replace('_', ' '):<34}{shown:>8}")


@click.command()
@click.option("--users", default=1000, help="Listeners in the run.")
@click.option("--latency", default=0.05, help="Seconds that Spotify takes to answer.")
@click.option("--connections", default=16, help="Threads that ask Spotify, over all processes.")
@click.option("--chunk-size", default=125, help="Users per chunk.")
@click.option("--few", default=10, help="Users of what is measured on a few.")
@click.option("--out", default=RESULTS / "fleet.json", type=Path, help="Where the JSON goes.")
def main(
    users: int, latency: float, connections: int, chunk_size: int, few: int, out: Path
) -> None:
    """Measures sync_users beside what it could cost at least and at most."""
    with (
        fleet(users, connections // PROCESSES) as world,
        running_stack(world.pipeline.settings, free_port(None, first=12_000)) as stack,
    ):
        stop_schedules(stack, world.instance)
        bench = Bench(world, stack, connections, chunk_size)
        click.echo(HEAD)
        bench.floor()  # computes all top lists, once a day
        bench.measure("simulator", bench.floor)
        world.latency(latency)
        bench.measure("floor", bench.floor)
        bench.measure("first", bench.sync_users)
        world.latency(0)
        bench.next_day()
        world.latency(latency)
        bench.measure("nightly", bench.sync_users)
        bench.measure("again", bench.sync_users)
        bench.measure("one by one", lambda: bench.one_run_each(few), few)
        bench.measure("plain loop", lambda: bench.plain_loop(few), few)
        world.latency(0)
        split = bench.split()
    verdict = verdicts(bench.rows)
    report(split, verdict)
    save(
        out,
        {
            "users": users,
            "latency_seconds": latency,
            "connections": connections,
            "chunk_size": chunk_size,
            "calls_per_user": CALLS_PER_USER,
            "rows": [asdict(row) for row in bench.rows],
            "cpu_split_ms_per_user": split,
            "verdict": verdict,
        },
    )


if __name__ == "__main__":
    main()
