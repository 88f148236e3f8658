"""Runs a simulator as a child process that never outlives its parent."""

import contextlib
import datetime as dt
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from threading import Timer
from typing import IO

from spotify_pipeline.simulator.control import Simulator, SimulatorError

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0


@contextlib.contextmanager
def running_simulator(
    port: int = 0, listeners: int = 0, seed: int = 1, now: dt.datetime | None = None
) -> Iterator[Simulator]:
    """Starts `python -m spotify_pipeline.simulator`, yields its client, and stops it.

    `port` 0 takes a free one; `now` stops its clock at an instant. Raises SimulatorError, with the
    output of the process, if it is not ready within 30 seconds.
    """
    command = [sys.executable, "-m", "spotify_pipeline.simulator", "--child"]
    command += [f"--port={port}", f"--listeners={listeners}", f"--seed={seed}"]
    command += [f"--now={now.isoformat()}"] if now else []
    with tempfile.TemporaryFile() as errors:
        # It exits when its standard input ends, so also when this process is killed.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            yield Simulator(_wait_until_ready(process, errors))
        finally:
            _stop(process)


def _wait_until_ready(process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> str:
    """The address that the process prints once it accepts connections."""
    assert process.stdout is not None
    too_late = Timer(_START_SECONDS, process.kill)
    too_late.start()
    try:
        line = process.stdout.readline()  # empty if the process ended, by itself or at the time-out
    finally:
        too_late.cancel()
    if not line:
        process.wait()
        errors.seek(0)
        said = errors.read()[-2000:].decode(errors="replace").strip()
        raise SimulatorError(f"the simulator did not start (exit {process.returncode}): {said}")
    url: str = json.loads(line)["url"]
    return url


def _stop(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
