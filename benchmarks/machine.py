"""Shared by all benchmarks: CPU of process trees, machine description, results as JSON.

`python -m benchmarks.machine COMMAND …` runs a command and prints its cost and that of all its
descendants, orphans included, as one line of JSON at the end. Linux only.
"""

import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

RESULTS = Path(__file__).parent / "results"
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Spent:
    """The cost of a command and its descendants; `peak_mb` is that of the largest process."""

    wall_seconds: float
    cpu_seconds: float
    peak_mb: float


def spent_by(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Spent:
    """Runs a command in its own process tree to its end. Raises CalledProcessError."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.machine", *command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Spent(**json.loads(done.stdout.splitlines()[-1]))


def cpu_seconds(pid: int) -> float:
    """CPU so far of a running process, its living children and those it has waited for."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return total


def machine() -> dict[str, object]:
    """The machine and the date of a measurement."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def save(path: Path, figures: Mapping[str, object]) -> None:
    """Writes the figures together with the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")


def _run(command: Sequence[str]) -> int:
    # Orphans, such as the server that forks Dagster's steps, become children we can wait for.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=sys.stderr)
    status = child.wait()
    wall = time.monotonic() - started
    with suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps(asdict(Spent(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))))
    return status


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
