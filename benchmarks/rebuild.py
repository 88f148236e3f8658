"""The time of rebuilding days from a million plays, compared with a bare SQL aggregate.

    python -m benchmarks.rebuild [--plays 1000000] [--repeat 3] [--out FILE]

With all plays of one user, and of a hundred. Days are rebuilt as `spotify-pipeline rebuild` does
it, first written and then unchanged; the aggregate only groups plays by user and local day, without
tops and ties. All take turns. CPU is ours and that of Postgres.
"""

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import click
from sqlalchemy import text

from benchmarks.histories import ZONE, World, fill_history, world
from benchmarks.machine import RESULTS, cpu_seconds, save
from spotify_pipeline.domain.outcome import DAILY_LISTENING
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.sync.users import sync_users

CROWD = 100

_AGGREGATE = """
    SELECT user_id, (played_at AT TIME ZONE :zone)::date, sum(coalesce(ms_played, duration_ms)),
        count(*), count(DISTINCT track_id), count(DISTINCT artist_id)
    FROM spotify_pipeline.plays
    GROUP BY 1, 2"""


@dataclass(frozen=True)
class Took:
    what: str
    users: int
    wall_seconds: float
    own_seconds: float
    postgres_seconds: float


def aggregate(here: World) -> None:
    """Lower bound: Postgres reads every play once and groups it."""
    with here.pipeline.engine.connect() as conn:
        conn.execute(text(_AGGREGATE), {"zone": ZONE}).all()


def rebuild(here: World, user_ids: Sequence[str]) -> None:
    """Runs the rebuild as the command does, without calls to Spotify."""
    outcomes = sync_users(here.pipeline, user_ids, (DAILY_LISTENING,))
    assert all(outcome.result == "synced" for outcome in outcomes)


def delete_days(here: World) -> None:
    """Deletes the days, so that every day is written again."""
    with here.pipeline.engine.begin() as conn:
        conn.execute(text("DELETE FROM spotify_pipeline.daily_listening"))


def measure(plays: int, repeat: int) -> list[Took]:
    """Runs all measurements in turns."""
    took = []
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rebuild_")))
        server = stack.enter_context(embedded.start(home))
        running = embedded.running_server(home)
        assert running is not None
        sides = []
        for users in (1, CROWD):
            here = stack.enter_context(world(server.url(f"of_{users}")))
            ids = [f"user{n}" for n in range(users)]
            for user_id in ids:
                here.connect(user_id)
                with here.pipeline.engine.begin() as conn:
                    fill_history(conn, user_id, plays // users)
            with here.pipeline.engine.connect() as conn:
                conn.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
            sides.append((here, ids))
        for _ in range(repeat):
            for here, ids in sides:
                parts: dict[str, Callable[[], None]] = {
                    "bare aggregate": partial(aggregate, here),
                    "rebuild, all new": partial(rebuild, here, ids),
                    "rebuild, all same": partial(rebuild, here, ids),
                }
                delete_days(here)
                for what, work in parts.items():
                    before = (time.time(), time.process_time(), cpu_seconds(running.pid))
                    work()
                    after = (time.time(), time.process_time(), cpu_seconds(running.pid))
                    spent = (b - a for a, b in zip(before, after, strict=True))
                    took.append(Took(what, len(ids), *spent))
    return took


@click.command()
@click.option("--plays", default=1_000_000, help="Plays of all users together.")
@click.option("--repeat", default=3, help="Times that everything is measured.")
@click.option("--out", type=Path, default=RESULTS / "rebuild.json", help="Where the figures go.")
def main(plays: int, repeat: int, out: Path) -> None:
    """Prints a table and writes the figures."""
    took = measure(plays, repeat)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(
        "                     users  wall, s  CPU, s:  ours  Postgres   plays per CPU second"
    )
    rows = []
    for what, users in dict.fromkeys((run.what, run.users) for run in took):
        these = [run for run in took if (run.what, run.users) == (what, users)]
        wall = median(run.wall_seconds for run in these)
        own = median(run.own_seconds for run in these)
        postgres = median(run.postgres_seconds for run in these)
        speed = plays / median(run.own_seconds + run.postgres_seconds for run in these)
        rows.append({"what": what, "users": users, "wall": wall, "plays_per_cpu_second": speed})
        click.echo(f"{what:<20}{users:>6}{wall:>9.1f}{own:>14.1f}{postgres:>10.1f}{speed:>23,.0f}")
    click.echo(f"Peak memory of our process: {peak_mb:,.0f} MB.")
    runs = [asdict(run) for run in took]
    save(out, {"plays": plays, "peak_mb": peak_mb, "rows": rows, "runs": runs})


if __name__ == "__main__":
    main()
