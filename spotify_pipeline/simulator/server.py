"""Serves a simulator on a loopback port of this process, or starts one in a child process."""

import contextlib
import datetime as dt
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from threading import Timer
from typing import IO, Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from spotify_pipeline.simulator.control import Simulator, SimulatorError
from spotify_pipeline.simulator.faults.wire import TRANSPORT
from spotify_pipeline.simulator.http.app import make_app
from spotify_pipeline.simulator.state import SimulatorState

HOST = "127.0.0.1"
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0


class RawAccess(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with the raw connection in the scope, for faults below HTTP."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        app = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, TRANSPORT: self.transport}, receive, send)

        self.app = with_transport


def serve(state: SimulatorState, port: int, announce: Callable[[str], None]) -> None:
    """Serves a simulator on 127.0.0.1 until interrupted.

    `port` 0 takes a free one. `announce(url)` is called once connections are accepted. Raises
    OSError if the port is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        # Clients that connect before uvicorn is ready wait in this queue.
        listening.listen(512)
        url = f"http://{HOST}:{listening.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(state),
                log_level="warning",
                access_log=False,
                lifespan="off",
                http=RawAccess,
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        announce(url)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


@contextlib.contextmanager
def running_simulator(
    port: int = 0, listeners: int = 0, seed: int = 1, now: dt.datetime | None = None
) -> Iterator[Simulator]:
    """Starts `python -m spotify_pipeline.simulator`, yields its client, and stops it.

    `port` 0 takes a free one; `now` stops its clock at an instant. Raises SimulatorError, with the
    output of the process, if it is not ready within 30 seconds.
    """
    command = [sys.executable, "-m", "spotify_pipeline.simulator"]
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
