"""A guarded webserver in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from spotify_pipeline.cli.local.dagster_processes import free_port


@contextmanager
def guarded_webserver(home: Path) -> Iterator[int]:
    """Yields its port. It has no code location, and Dagster's own SQLite in `home`."""
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (home / "workspace.yaml").write_text("load_from: []\n")
    port = free_port(None, first=21_000)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "spotify_pipeline.defs.instance.processes.webserver"),
            *("-h", "127.0.0.1", "-p", str(port), "-w", str(home / "workspace.yaml")),
        ],
        env={
            "DAGSTER_HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "SPOTIFY_PIPELINE_UI_HOSTS": "ui.example.org",
        },
        cwd=Path(__file__).parents[3],
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                requests.get(f"http://127.0.0.1:{port}/server_info", timeout=5)
                break
            except requests.ConnectionError:
                assert process.poll() is None
                assert time.monotonic() < deadline
        yield port
    finally:
        process.terminate()
        process.wait(20)
