"""Worker processes that can be killed or stopped at any time."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from spotify_pipeline_tests.crashes.worker import Order, Program, Report

# The fork server has imported everything and opened nothing, so a worker starts in 50 ms instead of
# 2 s. A test needs two hundred.
_CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["spotify_pipeline_tests.crashes.worker"]
START_SECONDS = 60.0
END_SECONDS = 120.0


class Worker:
    """A process that runs a program, receives orders and sends reports."""

    def __init__(self, program: Program, environ: dict[str, str]) -> None:
        # Dagster runs in the same process may have preloaded something else.
        _CONTEXT.set_forkserver_preload(PRELOADED)
        self._orders, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=program, args=(theirs, environ), daemon=True)
        self._process.start()
        theirs.close()
        assert self.report(START_SECONDS) is not None, "the worker did not start"

    def order(self, order: Order) -> None:
        self._orders.send(order)

    def report(self, seconds: float = END_SECONDS) -> Report | None:
        """The next report within so many seconds, or None.

        Raises EOFError if the process has ended.
        """
        if not self._orders.poll(max(seconds, 0)):
            return None
        report: Report = self._orders.recv()
        return report

    def kill(self) -> Report | None:
        """SIGKILL. Returns an unread report sent before."""
        self._process.kill()
        self._process.join()
        try:
            return self.report(0)
        except (EOFError, ConnectionResetError):
            return None

    def stop(self) -> None:
        """SIGSTOP: it looks dead, but can be resumed."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self._pid, signal.SIGCONT)

    def close(self) -> None:
        """Kills it in any state."""
        self._process.kill()
        self._process.join()
        self._orders.close()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid


@contextmanager
def running_workers(
    program: Program, environ: dict[str, str], count: int = 1
) -> Iterator[list[Worker]]:
    """Starts `count` workers and kills them at the end of the block."""
    workers: list[Worker] = []
    try:
        for _ in range(count):
            workers.append(Worker(program, environ))
        yield workers
    finally:
        for worker in workers:
            worker.close()
