"""Forks runs from a process that has imported everything, instead of starting an interpreter.

A new interpreter imports for 1.5 s before it works, while a user waits. The warm process is
Python's forkserver: executed by the code server, so that no gRPC is ever forked, with one thread,
no connection and no descriptor but its pipes. See docs/decisions/warm-process.md.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from pathlib import Path

PR_SET_PDEATHSIG = 1
PRELOADED = [__name__, "spotify_pipeline.defs.instance.processes.preloaded"]
# In a run: the warm process, which has imported this module before it forked.
IMPORTED_BY = os.getpid()


class ForkedRun(ForkServerProcess):
    """A run that dies with the warm process.

    The code server learns of a run's end from the warm process only: when that one is gone, it
    reports its runs as failed, and the request is tried again by another run.
    """

    def run(self) -> None:
        """Ties this process to its parent, then works."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before: then nothing would end this process.
        if os.getppid() != IMPORTED_BY:
            os._exit(1)
        # Steps of the run fork from the warm process too. Python knows its address here, but starts
        # another unless it is a child of this process. Since 3.14 it has a key, which stays there.
        if sys.version_info < (3, 14):
            forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
        super().run()


class WarmContext(ForkServerContext):
    """As `multiprocessing.get_context("forkserver")`, for forked runs."""

    Process = ForkedRun


class RunStarter:
    """Chooses how the next run starts: forked, or spawned once the code has changed.

    The warm process has the code as it was when this was made, and so has the code server. A
    spawned run reads the code as it is now.
    """

    def __init__(self, package: Path) -> None:
        self._package = package
        self._forks = sys.platform == "linux"  # prctl
        if self._forks:
            self._loaded = _code_of(package)
            forkserver.set_forkserver_preload(PRELOADED)
            # Now: the first run should find it warm. After a death the next run starts another.
            forkserver.ensure_running()

    def context(self) -> BaseContext:
        """The context of `multiprocessing` for the next run."""
        if self._forks and _code_of(self._package) == self._loaded:
            return WarmContext()
        return multiprocessing.get_context("spawn")


def _code_of(package: Path) -> dict[Path, int]:
    """When each module was last changed: 5 ms for 250 modules."""
    return {path: path.stat().st_mtime_ns for path in package.rglob("*.py")}
