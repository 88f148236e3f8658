"""What the databases grow by, per user and month: our tables, and Dagster's.

    python -m benchmarks.disk [--users 20] [--days 4]

Listeners of all kinds live some days. Every simulated hour the job sync_users collects who is due,
and at 3:00 syncs everybody, as the schedules do; so Dagster's runs and events are real too. Sizes
are those of tables with indexes and TOAST after VACUUM FULL, before and after the days, so without
the space that dead rows take.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from sqlalchemy import Engine, text

from benchmarks.machine import RESULTS, save
from benchmarks.world import connect_listeners
from spotify_pipeline.defs.build import build_defs
from spotify_pipeline.defs.in_process import QUIET, opened_instance
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.schedules import PLAYS
from spotify_pipeline.domain.outcome import STEPS
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage.postgres.database import leave_database, open_dagster_engine
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline

WARM_UP = timedelta(days=1)
MONTH = 30
# Kept for 30 days each: what they hold levels off.
KEPT_30_DAYS = {"fetch_log", "sync_run_users", "sync_run_chunks", "sync_requests"}
# Shared by all users: grows with what is new to all of them.
CATALOGUE = {"artists", "tracks"}


class Opened(PipelineResource):
    """Hands out one pipeline, with the simulated clock."""

    @contextmanager
    def opened(self) -> Iterator[Pipeline]:
        yield _pipeline[0]


_pipeline: list[Pipeline] = []


def sizes(engine: Engine, schema: str) -> dict[str, int]:
    """Bytes per table of a schema."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM FULL"))
        rows = conn.execute(
            text(
                "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = to_regnamespace(:schema)"
            ),
            {"schema": schema},
        )
        return {name: size for name, size in rows}


@click.command()
@click.option("--users", default=20, show_default=True, type=click.IntRange(1))
@click.option("--days", default=4, show_default=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "disk.json")
def main(users: int, days: int, out: Path) -> None:
    """Measure what the databases grow by."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="disk_")))
        simulator = stack.enter_context(running_simulator())
        os.environ |= {
            **simulator.environment,
            "SPOTIFY_PIPELINE_HOME": str(home),
            "SPOTIFY_PIPELINE_CALLS_PER_30S": "0",
            "SPOTIFY_PIPELINE_CALLS_PER_DAY": "0",
            "PYTHONWARNINGS": "ignore",
        }
        end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        clock = [end - timedelta(days=days) - WARM_UP]
        settings = load_settings()
        stack.callback(leave_database, settings)
        pipeline = stack.enter_context(open_pipeline(settings, lambda: clock[0]))
        _pipeline.append(pipeline)
        instance = stack.enter_context(opened_instance(settings))
        connect_listeners(pipeline, simulator, users, clock[0])
        dagster = open_dagster_engine(settings)
        stack.callback(dagster.dispose)
        job = build_defs(Opened()).resolve_job_def("sync_users")

        def live(until: datetime) -> None:
            while clock[0] < until:
                simulator.set_clock(clock[0])
                nightly = clock[0].hour == 3
                steps = list(STEPS) if nightly else PLAYS
                job.execute_in_process(
                    instance=instance,
                    run_config={
                        "ops": {
                            "choose_users": {
                                "config": {"selection": "active" if nightly else "due"}
                            },
                            "sync_chunk": {"config": {"steps": steps, "scheduled": True}},
                        },
                        **QUIET,
                    },
                )
                clock[0] += timedelta(hours=1)

        live(end - timedelta(days=days))
        ours, theirs = sizes(pipeline.engine, "spotify_pipeline"), sizes(dagster, "public")
        with pipeline.engine.connect() as conn:
            plays = -int(conn.scalar(text("SELECT count(*) FROM spotify_pipeline.plays")) or 0)
        live(end)
        grown = {
            name: size - ours.get(name, 0)
            for name, size in sizes(pipeline.engine, "spotify_pipeline").items()
        }
        events = sum(sizes(dagster, "public").values()) - sum(theirs.values())
        with pipeline.engine.connect() as conn:
            plays += int(conn.scalar(text("SELECT count(*) FROM spotify_pipeline.plays")) or 0)
    per_month = MONTH / days / users

    def kb(names: set[str]) -> float:
        return sum(grown[name] for name in names) * per_month / 1000

    figures = {
        "plays": plays * per_month,
        "kept for ever, kB": kb(set(grown) - KEPT_30_DAYS - CATALOGUE),
        "catalogue, shared, kB": kb(CATALOGUE),
        "logs, kept 30 days, kB": kb(KEPT_30_DAYS & set(grown)),
        "Dagster, kept 30 days, kB": events * per_month / 1000,
    }
    click.echo(f"Per user and month ({users} users, {days} days, load {os.getloadavg()[0]:.1f})")
    for name, figure in figures.items():
        click.echo(f"  {name:<28}{figure:10,.0f}")
    for name, size in sorted(grown.items(), key=lambda entry: -entry[1])[:10]:
        click.echo(f"    {name:<26}{size * per_month / 1000:10,.0f} kB")
    save(out, {"users": users, "days": days, "per_user_and_month": figures, "tables": grown})


if __name__ == "__main__":
    main()
