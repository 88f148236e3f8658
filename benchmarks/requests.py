"""How long a person waits for a sync, and where the time goes.

    python -m benchmarks.requests [--single 20] [--burst 200]

A real code server, webserver and daemon on an embedded Postgres, against the simulator with 50 ms
latency. First single requests at uneven moments, one after the other; then many people at once.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import dagster as dg
from dagster import DagsterEventType as Event
from sqlalchemy import text

from spotify_pipeline.cli.stack import Stack, free_port, running_stack
from spotify_pipeline.defs.running import opened_instance
from spotify_pipeline.domain.sealing import seal
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.simulator.process import running_simulator
from spotify_pipeline.storage.accounts import connect_user, register_user
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline

LATENCY_SECONDS = 0.05
SCOPES = ("user-read-recently-played", "user-top-read")


@dataclass(frozen=True)
class Bench:
    """Everything that runs."""

    pipeline: Pipeline
    simulator: Simulator
    stack: Stack
    instance: dg.DagsterInstance

    def ask(self, user_ids: Sequence[str]) -> None:
        """These people press Sync."""
        with self.pipeline.engine.begin() as conn:
            conn.execute(
                text("INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u)"),
                [{"u": user_id} for user_id in user_ids],
            )

    def finish(self, user_ids: Sequence[str], seconds: float) -> list[dict[str, object]]:
        """Their requests, once all of them have ended."""
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
    """Seconds of each part of a request's life, in order."""
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
    """One request after the other, each at a moment that has nothing to do with the ticks."""
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
    """Everybody at once."""
    bench.ask(user_ids)
    rows = bench.finish(user_ids, 600)
    seconds = sorted(waited(row) for row in rows)
    runs = len({row["run_id"] for row in rows})
    click.echo(f"\n{len(rows)} requests at once, in {runs} runs, in seconds")
    click.echo(f"  first {seconds[0]:.1f}, median {statistics.median(seconds):.1f}, ", nl=False)
    click.echo(f"all {seconds[-1]:.1f}")


def connect(pipeline: Pipeline, simulator: Simulator, user_id: str) -> None:
    """A listener of the last two weeks, as the app connects them."""
    since = (datetime.now(UTC) - timedelta(days=14)).date()
    info = simulator.add_listener(user_id, "UTC", since=since, person="light")
    keyring = pipeline.keyring
    sealed = seal(keyring.public_key(keyring.current_id), user_id, info.refresh_token)
    with pipeline.engine.begin() as conn:
        register_user(conn, user_id, "UTC", None)
        connect_user(
            conn,
            user_id,
            client_id=simulator.client_id,
            sealed_refresh_token=sealed,
            key_id=keyring.current_id,
            scopes=SCOPES,
            authorized_at=datetime.now(UTC),
        )


@click.command()
@click.option("--single", default=20, help="Single requests, one after the other.")
@click.option("--burst", default=200, help="People who press Sync at once.")
def main(single: int, burst: int) -> None:
    """Measures requests from INSERT to succeeded."""
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        simulator = stack.enter_context(running_simulator())
        os.environ |= {
            **simulator.environment,
            "SPOTIFY_PIPELINE_HOME": str(Path(home)),
            "SPOTIFY_PIPELINE_CALLS_PER_30S": "0",
            "SPOTIFY_PIPELINE_CALLS_PER_DAY": "0",
        }
        settings = load_settings()
        pipeline = stack.enter_context(open_pipeline(settings))
        singles = [f"single{n}" for n in range(single + 1)]
        crowd = [f"crowd{n}" for n in range(burst)]
        for user_id in [*singles, *crowd]:
            connect(pipeline, simulator, user_id)
        simulator.add_fault(Latency(LATENCY_SECONDS))
        dagster = stack.enter_context(running_stack(settings, free_port(None, first=12_000)))
        instance = stack.enter_context(opened_instance(settings))
        bench = Bench(pipeline, simulator, dagster, instance)
        # The first one of all also warms the disk's cache.
        bench.ask(singles[:1])
        bench.finish(singles[:1], 120)
        if single:
            measure_single(bench, singles[1:])
        if burst:
            measure_burst(bench, crowd)


if __name__ == "__main__":
    main()
