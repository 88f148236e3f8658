"""An import that is killed at any point, and run again."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from spotify_pipeline.app import register_user
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.exports.rows import write
from spotify_pipeline_tests.sync.imports.export_files import extended_row
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

PROGRAM = [sys.executable, "-m", "spotify_pipeline.cli.main"]
TABLES = (t.plays, t.imported_plays, t.imported_tracks, t.coverage, t.daily_listening)
ROWS = 4_000


def test_an_import_killed_anywhere_and_run_again_is_one_import(
    scenario: Scenario, environ: dict[str, str], tmp_path: Path
) -> None:
    rows = [
        extended_row(NOON - timedelta(minutes=7 * n + 60), n % 40, 1_000 + 31 * n)
        for n in range(ROWS)
    ]
    path = write(tmp_path / "endsong_0.json", *rows)
    environment = {
        **os.environ,
        **environ,
        "SPOTIFY_PIPELINE_HOME": str(tmp_path),
    }
    # Makes the database of Dagster too, to which imports are reported.
    subprocess.run([*PROGRAM, "init-db"], env=environment, check=True, capture_output=True)

    def register() -> None:
        with scenario.pipeline.engine.begin() as conn:
            register_user(conn, "ada", "UTC", None)

    def run(kill_after: float | None) -> float:
        """Runs the import, killed after so many seconds; returns how long it took."""
        began = time.monotonic()
        with subprocess.Popen(
            [*PROGRAM, "import-history", "ada", str(path)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                assert process.wait(kill_after) == 0
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        return time.monotonic() - began

    def outcome() -> dict[str, list[tuple[object, ...]]]:
        return {
            table.name: [
                tuple(value for name, value in row.items() if name != "computed_at")
                for row in scenario.rows(table, "ada")
            ]
            for table in TABLES
        }

    register()
    seconds = run(None)
    whole = outcome()
    assert len(whole["plays"]) == ROWS
    for part in (0.6, 0.85):
        scenario.forget("ada")
        register()
        run(seconds * part)
        # All of the plays or none: the merge is one transaction.
        assert len(scenario.rows(t.plays, "ada")) in (0, ROWS)
        run(None)
        assert outcome() == whole
