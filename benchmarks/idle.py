"""What the whole stack costs without syncs and requests.

    python -m benchmarks.idle [--seconds 60]

Starts `spotify-pipeline dev` on an empty home, lets it settle, and sums up all its processes:
memory as PSS (shared pages divided among their sharers), CPU as seconds per minute. Linux only.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

import click
import psutil

SETTLE_SECONDS = 30


def processes(root: psutil.Process) -> dict[int, tuple[str, float, float]]:
    """Each process below: what it is, PSS in MB, CPU seconds so far."""
    found: dict[int, tuple[str, float, float]] = {}
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            pss = process.memory_full_info().pss / 2**20
            times = process.cpu_times()
            found[process.pid] = (_name(process), pss, times.user + times.system)
    return found


def _name(process: psutil.Process) -> str:
    # `dev` names what it forks.
    named = {"code server", "daemon", "warm process", "web page", "webserver"}
    if process.name() in named:
        return process.name()
    line = " ".join(process.cmdline())
    known = {"cli.main": "dev", "postgres": "Postgres"}
    return next((name for part, name in known.items() if part in line), "other")


@click.command()
@click.option("--seconds", default=60.0, show_default=True)
def main(seconds: float) -> None:
    """Print a line per kind of process, and all."""
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "SPOTIFY_PIPELINE_HOME": home}
        dev = subprocess.Popen(
            [sys.executable, "-u", "-m", "spotify_pipeline.cli.main", "dev"],
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert dev.stdout is not None
            for line in dev.stdout:
                if "The Dagster UI is at" in line:
                    break
            time.sleep(SETTLE_SECONDS)
            root = psutil.Process(dev.pid)
            before = processes(root)
            began = time.monotonic()
            time.sleep(seconds)
            after, minutes = processes(root), (time.monotonic() - began) / 60
        finally:
            dev.send_signal(signal.SIGINT)
            dev.wait()
    table: dict[str, tuple[float, float]] = {}
    for pid, (name, pss, cpu) in after.items():
        spent = cpu - before.get(pid, (name, 0.0, 0.0))[2]
        for key in (name, "in all"):
            memory, seconds_spent = table.get(key, (0.0, 0.0))
            table[key] = (memory + pss, seconds_spent + spent / minutes)
    print(f"{'':14}{'PSS, MB':>9}{'CPU s a minute':>16}")
    for name, (memory, spent) in sorted(table.items(), key=lambda item: item[1]):
        print(f"{name:14}{memory:9.0f}{spent:16.2f}")


if __name__ == "__main__":
    main()
