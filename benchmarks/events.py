"""The cost of a materialization event with dagster-postgres's storage and with ours.

    python -m benchmarks.events [--events 300] [--rounds 5] [--out benchmarks/results/events.json]

A job of one op emits materializations of partitions, in this process, on an embedded Postgres, in
turns: yielded with each storage, and stored as a batch in ours. CPU excludes Postgres.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import dagster as dg
from sqlalchemy import event
from sqlalchemy.pool import Pool

from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.defs.instance.event_batches import store_materializations
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.postgres.database import dagster_url

PARTITIONS = 50


@dataclass(frozen=True)
class Cost:
    """Of one round: milliseconds per event, and connections opened per event."""

    wall_ms: float
    cpu_ms: float
    connections: float


@click.command()
@click.option("--events", default=300, show_default=True, help="Events per round.")
@click.option("--rounds", default=5, show_default=True, help="Rounds per storage, in turns.")
@click.option("--out", type=click.Path(path_type=Path), default="benchmarks/results/events.json")
def main(events: int, rounds: int, out: Path) -> None:
    """Measure both storages, print a table, write JSON."""
    costs: dict[str, list[Cost]] = {"dagster-postgres": [], "pooled": [], "pooled, a batch": []}
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        os.environ["SPOTIFY_PIPELINE_HOME"] = home
        settings = load_settings()
        pooled = stack.enter_context(opened_instance(settings))
        instances = {
            "pooled": (pooled, False),
            "pooled, a batch": (pooled, True),
            "dagster-postgres": (
                stack.enter_context(default_instance(Path(home) / "default")),
                False,
            ),
        }
        for instance, batch in instances.values():
            measure(instance, 10, batch=batch)  # warm-up: connections and caches of the first event
        for _ in range(rounds):
            for name, (instance, batch) in instances.items():
                costs[name].append(measure(instance, events, batch=batch))
    result = {name: median(of_storage) for name, of_storage in costs.items()}
    click.echo(f"{'storage':<18}{'wall ms':>9}{'CPU ms':>9}{'connections':>13}   per event")
    for name, cost in result.items():
        click.echo(f"{name:<18}{cost.wall_ms:>9.1f}{cost.cpu_ms:>9.1f}{cost.connections:>13.2f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        "events": events,
        "rounds": rounds,
        "median per event": {name: asdict(cost) for name, cost in result.items()},
        "every round": {name: [asdict(one) for one in rows] for name, rows in costs.items()},
    }
    out.write_text(json.dumps(figures, indent=2) + "\n")


@contextmanager
def default_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on the same database, with dagster-postgres's default storage."""
    home.mkdir()
    url = dagster_url(load_settings()).set(drivername="postgresql+psycopg2")
    address = json.dumps(url.render_as_string(hide_password=False))
    (home / "dagster.yaml").write_text(
        f"storage: {{postgres: {{postgres_url: {address}}}}}\ntelemetry: {{enabled: false}}\n"
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def measure(instance: dg.DagsterInstance, events: int, *, batch: bool) -> Cost:
    """Emits this many events in a run and measures the time."""
    opened: list[object] = []
    cost: list[float] = []

    @dg.op(out=dg.Out(dg.Nothing))
    def emit(
        context: dg.OpExecutionContext,
    ) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
        wall, cpu, before = time.perf_counter(), time.process_time(), len(opened)
        materializations = (
            dg.AssetMaterialization(
                "measured", partition=f"user-{number % PARTITIONS}", metadata={"new": number}
            )
            for number in range(events)
        )
        if batch:
            store_materializations(context, materializations)
        else:
            yield from materializations
        cost.extend((time.perf_counter() - wall, time.process_time() - cpu, len(opened) - before))
        yield dg.Output(None)

    def connected(connection: object, _: object) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", connected)
    dg.GraphDefinition(name="measure", node_defs=[emit]).to_job().execute_in_process(
        instance=instance,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    event.remove(Pool, "connect", connected)
    wall, cpu, connections = cost
    return Cost(1000 * wall / events, 1000 * cpu / events, connections / events)


def median(costs: list[Cost]) -> Cost:
    """The median of each figure over the rounds."""
    return Cost(
        statistics.median(cost.wall_ms for cost in costs),
        statistics.median(cost.cpu_ms for cost in costs),
        statistics.median(cost.connections for cost in costs),
    )


if __name__ == "__main__":
    main()
