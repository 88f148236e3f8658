"""How long a user waits for a sync, and which part takes how long.

    python -m benchmarks.requests [--single 20] [--burst 200] [--flood 0]

A real code server, webserver and daemon on an embedded Postgres, against the simulator with 50 ms
latency. First single requests at uneven moments, one after the other; then many users at once; then
users who press Sync while an app asks for a flood of others.
"""

import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import click
import dagster as dg
from dagster import DagsterEventType as Event
from sqlalchemy import text

from benchmarks.world import fleet
from spotify_pipeline.cli.local.dagster_processes import Stack, free_port, running_stack
from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.sync.pipeline import Pipeline

LATENCY_SECONDS = 0.05
# During a flood so many users press Sync, one after the other without waiting for answers.
OTHERS, OTHER_EVERY_SECONDS = 20, 2


@dataclass(frozen=True)
class Bench:
    """The running stack."""

    pipeline: Pipeline
    simulator: Simulator
    stack: Stack
    instance: dg.DagsterInstance

    def ask(self, user_ids: Sequence[str], app: str = "page") -> None:
        """Requests a sync for these users, in the name of an app."""
        with self.pipeline.engine.begin() as conn:
            conn.execute(
                text(
                    "INSERT INTO spotify_pipeline.sync_requests (user_id, requested_by)"
                    " VALUES (:u, :app)"
                ),
                [{"u": user_id, "app": app} for user_id in user_ids],
            )

    def finish(self, user_ids: Sequence[str], seconds: float) -> list[dict[str, object]]:
        """Waits until all their requests have ended, and returns them."""
        statement = text(
            "SELECT * FROM spotify_pipeline.sync_requests"
            " WHERE user_id = ANY(:users) AND finished_at IS NOT NULL ORDER BY id"
        )
        rows: list[dict[str, object]] = []

        def done() -> bool:
            with self.pipeline.engine.connect() as conn:
                found = conn.execute(statement, {"users": list(user_ids)})
                rows[:] = [dict(row) for row in found.mappings()]
            return len(rows) == len(user_ids)

        self.stack.wait(seconds, done, f"{len(user_ids)} requests")
        failed = {row["error_code"] for row in rows} - {None}
        if failed:
            raise click.ClickException(f"Requests failed: {failed}")
        return rows


def phases(bench: Bench, row: dict[str, object], calls: Sequence[float]) -> dict[str, float]:
    """Seconds of each phase of a request, in order."""
    logs = bench.instance.all_logs(str(row["run_id"]))

    def first(kind: Event) -> float:
        return next(
            entry.timestamp
            for entry in logs
            if entry.dagster_event and entry.dagster_event.event_type is kind
        )

    moments = {
        "until a tick asked for a run": first(Event.PIPELINE_ENQUEUED),
        "in Dagster's queue": first(Event.PIPELINE_STARTING),
        "starting the process": first(Event.ENGINE_EVENT),
        "loading our code": first(Event.PIPELINE_START),
        "reaching the step": first(Event.STEP_START),
        "opening the pipeline": calls[0],
        "asking Spotify": calls[-1] + LATENCY_SECONDS,
        "computing and writing": _at(row["finished_at"]),
    }
    last, seconds = _at(row["requested_at"]), {}
    for name, moment in moments.items():
        seconds[name], last = moment - last, moment
    return seconds


def _at(instant: object) -> float:
    assert isinstance(instant, datetime)
    return instant.timestamp()


def waited(row: dict[str, object]) -> float:
    """Seconds from the INSERT to the answer."""
    return _at(row["finished_at"]) - _at(row["requested_at"])


def measure_single(bench: Bench, user_ids: Sequence[str]) -> None:
    """One request after the other, at times independent of the sensor's ticks."""
    uneven, parts, totals = random.Random(1), [], []  # noqa: S311 - moments, not secrets
    for user_id in user_ids:
        time.sleep(uneven.uniform(1, 6))
        bench.simulator.forget_calls()
        bench.ask([user_id])
        (row,) = bench.finish([user_id], 120)
        calls = sorted(call.at for call in bench.simulator.calls() if call.user_id == user_id)
        parts.append(phases(bench, row, calls))
        totals.append(waited(row))
    click.echo(f"\n{len(totals)} single requests, INSERT to succeeded, in seconds")
    click.echo(f"  {'median':>8} {'p95':>8}")
    for name in parts[0]:
        _line([part[name] for part in parts], name)
    _line(totals, "in all")


def _line(values: Sequence[float], name: str) -> None:
    p95 = sorted(values)[max(0, round(0.95 * len(values)) - 1)]
    click.echo(f"  {statistics.median(values):8.2f} {p95:8.2f}  {name}")


def measure_burst(bench: Bench, user_ids: Sequence[str]) -> None:
    """All users at once."""
    bench.simulator.forget_calls()
    bench.ask(user_ids)
    rows = bench.finish(user_ids, 600)
    _report("at once", rows)
    asked_at = _at(rows[0]["requested_at"])
    logs = bench.instance.all_logs(str(rows[0]["run_id"]))
    steps = [e.timestamp for e in logs if e.dagster_event and e.dagster_event.is_step_start]
    calls = [call.at for call in bench.simulator.calls()]
    # The first step chooses the users, the last one reports.
    moments = {
        "the run began": logs[0].timestamp,
        "its first step": min(steps),
        "the first chunk": sorted(steps)[1],
        "the first call": min(calls),
        "the last call": max(calls),
    }
    for name, moment in moments.items():
        click.echo(f"  {moment - asked_at:8.2f} {name}")


def measure_flood(bench: Bench, flood: Sequence[str], others: Sequence[str]) -> None:
    """An app asks for many users, one INSERT each, while others press Sync."""

    def pour() -> None:
        for user_id in flood:
            bench.ask([user_id], "another app")

    pouring = threading.Thread(target=pour)
    pouring.start()
    for user_id in others:
        time.sleep(OTHER_EVERY_SECONDS)
        bench.ask([user_id])
    pouring.join()
    rows = bench.finish([*flood, *others], 3600)
    _report("of a flood", [row for row in rows if row["user_id"] not in others])
    _report("meanwhile", [row for row in rows if row["user_id"] in others])


def _report(which: str, rows: Sequence[dict[str, object]]) -> None:
    seconds = sorted(waited(row) for row in rows)
    runs = len({row["run_id"] for row in rows})
    click.echo(f"\n{len(rows)} requests {which}, in {runs} runs, in seconds")
    click.echo(f"  first {seconds[0]:.1f}, median {statistics.median(seconds):.1f}, ", nl=False)
    click.echo(f"all {seconds[-1]:.1f}")


@click.command()
@click.option("--single", default=20, help="Single requests, one after the other.")
@click.option("--burst", default=200, help="People who press Sync at once.")
@click.option("--flood", default=0, help="Users for whom an app asks while others press Sync.")
def main(single: int, burst: int, flood: int) -> None:
    """Measures requests from INSERT to succeeded."""
    with (
        fleet(1 + single + burst + (flood and flood + OTHERS), connections=16) as world,
        running_stack(world.pipeline.settings, free_port(None, first=12_000)) as stack,
    ):
        world.latency(LATENCY_SECONDS)
        bench = Bench(world.pipeline, world.simulator, stack, world.instance)
        first, *others = [listener.user_id for listener in world.listeners]
        # Warms the caches up.
        bench.ask([first])
        bench.finish([first], 120)
        if single:
            measure_single(bench, others[:single])
        if burst:
            measure_burst(bench, others[single : single + burst])
        if flood:
            rest = others[single + burst :]
            measure_flood(bench, rest[OTHERS:], rest[:OTHERS])


if __name__ == "__main__":
    main()
