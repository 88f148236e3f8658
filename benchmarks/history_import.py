"""The cost of importing a user's own history, beside the bare floor: parse the JSON, COPY the rows.
The same history handed over by an app, and imported from there.

    python -m benchmarks.history_import [--rows 100000] [--repeat 3] [--out FILE]

The history is ten years of an invented user, in files of 12,000 rows. The import is the command's,
its rebuild of days and personality included. All take turns; CPU is ours and that of Postgres.
"""

import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import click
from sqlalchemy import Connection, text

from benchmarks.histories import NOW, World, world
from benchmarks.machine import RESULTS, cpu_seconds, save
from spotify_pipeline.exports.archives import Upload
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.sync.import_history import import_history, import_upload
from spotify_pipeline.web.history import hand_over as hand_over_files

ROWS_A_FILE = 12_000
TRACKS = 8_000
YEARS = 10


@dataclass(frozen=True)
class Took:
    what: str
    wall_seconds: float
    own_seconds: float
    postgres_seconds: float


def history(rows: int) -> Iterator[dict[str, object]]:
    """Rows as Spotify writes them, oldest first."""
    chance = random.Random(1)  # noqa: S311 - an invented history
    step = timedelta(days=365 * YEARS) / rows
    for number in range(rows):
        track = min(int(chance.expovariate(4 / TRACKS)), TRACKS - 1)
        ended_at = datetime(2016, 1, 1, tzinfo=UTC) + step * number
        yield {
            "ts": ended_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "platform": "Android OS 12 API 31 (samsung, SM-A536B)",
            "ms_played": chance.choice([1_800, 25_000, 95_000, 182_000, 240_000]),
            "conn_country": "NO",
            "ip_addr": "203.0.113.7",
            "master_metadata_track_name": f"Song {track} (Remastered)",
            "master_metadata_album_artist_name": f"Singer {track % 900}",
            "master_metadata_album_album_name": f"Album {track % 2_000}",
            "spotify_track_uri": f"spotify:track:{track:022d}",
            "episode_name": None,
            "episode_show_name": None,
            "spotify_episode_uri": None,
            "reason_start": "trackdone",
            "reason_end": "trackdone",
            "shuffle": False,
            "skipped": False,
            "offline": False,
            "offline_timestamp": None,
            "incognito_mode": False,
        }


def write_export(folder: Path, rows: int) -> list[Path]:
    """Writes the history as files; returns their paths."""
    paths: list[Path] = []
    part: list[dict[str, object]] = []
    for row in history(rows):
        part.append(row)
        if len(part) == ROWS_A_FILE:
            paths.append(_write(folder, len(paths), part))
            part = []
    return [*paths, _write(folder, len(paths), part)] if part else paths


def _write(folder: Path, number: int, rows: list[dict[str, object]]) -> Path:
    path = folder / f"Streaming_History_Audio_{number}.json"
    path.write_text(json.dumps(rows))
    return path


def floor(conn: Connection, paths: list[Path]) -> None:
    """Parses every file and copies the columns that an import keeps."""
    conn.execute(
        text("CREATE TEMPORARY TABLE bare (a timestamptz, b text, c int, d text, e text, f text)")
    )
    driver = conn.connection
    with driver.cursor().copy("COPY bare FROM STDIN") as copy:
        for path in paths:
            for row in json.loads(path.read_bytes()):
                copy.write_row(
                    (
                        row["ts"],
                        row["spotify_track_uri"],
                        row["ms_played"],
                        row["master_metadata_track_name"],
                        row["master_metadata_album_artist_name"],
                        row["master_metadata_album_album_name"],
                    )
                )
    conn.rollback()


def run_import(here: World, user_id: str, paths: list[Path]) -> None:
    """Imports as the command does."""
    files = read_exports(paths, now=NOW, include_incognito=False)
    receipt = import_history(here.pipeline, user_id, files)
    assert sum(receipt.fates.values()) == receipt.rows_read


def hand_over(here: World, user_id: str, paths: list[Path]) -> None:
    """Reads the files and hands their rows over, as the web page does."""
    with ExitStack() as stack:
        opened = [Upload(path.name, stack.enter_context(path.open("rb"))) for path in paths]
        hand_over_files(here.pipeline.engine, user_id, opened, False)


def measure(rows: int, repeat: int) -> list[Took]:
    """Runs the measurements in turns, each import for a user without plays."""
    took = []
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="import_")))
        paths = write_export(home, rows)
        server = stack.enter_context(embedded.start(home / "server"))
        running = embedded.running_server(home / "server")
        assert running is not None
        here = stack.enter_context(world(server.url("imports")))
        for turn in range(repeat):
            user_id = f"user{turn}"
            here.connect(user_id)
            here.connect(f"app {user_id}")
            for what in ("floor", "import", "again", "hand over", "upload"):
                before = (time.time(), time.process_time(), cpu_seconds(running.pid))
                if what == "floor":
                    with here.pipeline.engine.connect() as conn:
                        floor(conn, paths)
                elif what == "hand over":
                    hand_over(here, f"app {user_id}", paths)
                elif what == "upload":
                    import_upload(here.pipeline, f"app {user_id}")
                else:
                    run_import(here, user_id, paths)
                after = (time.time(), time.process_time(), cpu_seconds(running.pid))
                took.append(Took(what, *(b - a for a, b in zip(before, after, strict=True))))
    return took


@click.command()
@click.option("--rows", default=100_000, help="Rows of the export.")
@click.option("--repeat", default=3, help="Times that everything is measured.")
@click.option("--out", type=Path, default=RESULTS / "history_import.json", help="For the figures.")
def main(rows: int, repeat: int, out: Path) -> None:
    """Prints a table and writes the figures."""
    took = measure(rows, repeat)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo("            wall, s  CPU, s:  ours  Postgres  CPU beside the floor's")
    cpu = {}
    for what in dict.fromkeys(part.what for part in took):
        these = [part for part in took if part.what == what]
        wall = median(part.wall_seconds for part in these)
        own = median(part.own_seconds for part in these)
        postgres = median(part.postgres_seconds for part in these)
        cpu[what] = own + postgres
        ratio = cpu[what] / cpu["floor"]
        click.echo(f"{what:<10}{wall:>9.1f}{own:>15.1f}{postgres:>10.1f}{ratio:>24.1f}")
    click.echo(f"Peak memory of our process: {peak_mb:,.0f} MB.")
    save(out, {"rows": rows, "peak_mb": peak_mb, "cpu": cpu, "runs": [asdict(p) for p in took]})


if __name__ == "__main__":
    main()
