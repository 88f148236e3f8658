"""The log files of Dagster's processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from spotify_pipeline.cli.local import dagster_processes


def run_and_log(path: Path, program: str) -> None:
    log = dagster_processes.Log.opened(path)
    subprocess.run([sys.executable, "-c", program], stdout=log.pipe, check=True)
    log.end()


def test_a_log_is_plain_text_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.touch(0o644)
    run_and_log(path, r"print('\x1b[34mdagster.daemon\x1b[0m - started')")
    assert path.read_text() == "dagster.daemon - started\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_is_kept_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    run_and_log(path, "print('before')")
    run_and_log(path, "print('after')")
    assert path.read_text() == "before\nafter\n"


def test_logs_take_a_bounded_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_processes, "LARGEST_BYTES", 1000)
    run_and_log(tmp_path / "daemon.log", "for n in range(1000): print('line', n)")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["daemon.log", *(f"daemon.log.{n}" for n in (1, 2, 3))]
    assert sum(file.stat().st_size for file in files) <= 4000
    assert (tmp_path / "daemon.log").read_text().endswith("line 999\n")
