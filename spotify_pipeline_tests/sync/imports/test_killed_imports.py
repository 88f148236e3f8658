"""An import that is killed at any point, and run again."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from spotify_pipeline.app import register_user
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.exports.rows import write
from spotify_pipeline_tests.sync.imports.export_files import extended_row
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

TABLES = (t.plays, t.imported_plays, t.imported_tracks, t.coverage, t.daily_listening)
ROWS = 300
KILLS = 200 if os.environ.get("SOAK") else 20
KILLS_AN_IMPORT = 5
SEED = int(os.environ.get("CRASH_SEED", "1"))
# Postgres completes the statement of a process that was killed.
WORKING = text("""
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
""")
# Imports the file in forks of a process that has loaded everything, one per line of its input: the
# seconds after which the fork is killed, or 0.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline.settings import load_settings
from spotify_pipeline.sync.import_history import import_history
from spotify_pipeline.sync.pipeline import open_pipeline

print("ready", flush=True)
for line in sys.stdin:
    if not (child := os.fork()):
        with open_pipeline(load_settings()) as pipeline:
            paths = [Path(sys.argv[1])]
            files = list(read_exports(paths, now=pipeline.now(), include_incognito=False))
            import_history(pipeline, "ada", files)
        os._exit(0)
    if seconds := float(line):
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Importer:
    """Imports a file for ada, and kills imports."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin
        assert process.stdout
        self._in, self._out = process.stdin, process.stdout
        assert self._out.readline() == "ready\n"

    def run(self, kill_after: float = 0) -> float:
        """One import, killed after so many seconds if not 0; returns how long it took."""
        began = time.monotonic()
        self._in.write(f"{kill_after}\n")
        status = int(self._out.readline())
        assert kill_after or status == 0
        return time.monotonic() - began


@contextmanager
def importer(environment: dict[str, str], path: Path) -> Iterator[Importer]:
    """A process that imports this file, ready to."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        yield Importer(process)


@pytest.mark.timeout(3600 if os.environ.get("SOAK") else 600)
def test_an_import_killed_anywhere_and_run_again_is_one_import(
    scenario: Scenario, environ: dict[str, str], tmp_path: Path
) -> None:
    rows = [
        extended_row(NOON - timedelta(minutes=7 * n + 60), n % 40, 1_000 + 31 * n)
        for n in range(ROWS)
    ]
    path = write(tmp_path / "endsong_0.json", *rows)

    def register() -> None:
        with scenario.pipeline.engine.begin() as conn:
            register_user(conn, "ada", "UTC", None)

    def outcome() -> dict[str, list[tuple[object, ...]]]:
        return {
            table.name: [
                tuple(value for name, value in row.items() if name != "computed_at")
                for row in scenario.rows(table, "ada")
            ]
            for table in TABLES
        }

    moments = random.Random(SEED)
    print(f"CRASH_SEED={SEED}")
    register()
    with importer({**environ, "SPOTIFY_PIPELINE_HOME": str(tmp_path)}, path) as imports:
        seconds = imports.run()
        whole = outcome()
        assert len(whole["plays"]) == ROWS
        for kill in range(KILLS):
            if kill % KILLS_AN_IMPORT == 0:
                scenario.forget("ada")
                register()
            imports.run(kill_after=moments.uniform(0, seconds))
            # All of the plays or none: the merge is one transaction.
            assert len(scenario.rows(t.plays, "ada")) in (0, ROWS)
            # As if the 30 s had passed that the lease of a killed process lasts.
            with scenario.pipeline.engine.connect() as conn:
                while conn.execute(WORKING).first():
                    conn.rollback()
                    time.sleep(0.01)
            scenario.execute(
                "UPDATE spotify_pipeline.sync_state SET lease_id = NULL, lease_until = NULL"
            )
            if kill % KILLS_AN_IMPORT == KILLS_AN_IMPORT - 1:
                imports.run()
                assert outcome() == whole
