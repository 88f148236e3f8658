"""Forks processes from one that has imported everything, instead of starting interpreters.

A new interpreter imports for 1.5 s before it works, and keeps 100 MB of its own. The warm process
is Python's forkserver: executed, so that no gRPC is ever forked, with one thread, no connection and
no descriptor but its pipes. In `dev` all processes are forked from one; elsewhere a code server has
its own, for runs. See docs/decisions/warm-process.md.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from spotify_pipeline.defs.instance import PROCESSES
from spotify_pipeline.home import UMASK
from spotify_pipeline.settings import ConfigurationError

FORKS = sys.platform == "linux"  # prctl
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
FOR_RUNS = [__name__, f"{PROCESSES}.preloaded"]
FOR_ALL = [f"{PROCESSES}.below_dev", *FOR_RUNS, f"{PROCESSES}.preloaded_servers"]
# Names the process that the warm process of `dev` belongs to.
STARTED_BY = "WARM_PROCESS_STARTED_BY"
PACKAGE = Path(__file__).resolve().parents[3]
# Modules in the folder that a process was started in must not hide ours.
NOT_FROM_HERE = {"PYTHONSAFEPATH": "1"}
# multiprocessing makes a socket there, whose path has 107 bytes at most.
LONGEST_TMPDIR = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")


def code_of(package: Path) -> dict[Path, int]:
    """When each module was last changed: 5 ms for 250 modules."""
    changed = {}
    for path in package.rglob("*.py"):
        # An editor's lock is a link to nothing.
        with suppress(FileNotFoundError):
            changed[path] = path.stat().st_mtime_ns
    return changed


# In a forked process: the warm process, and the code that it was about to import when it imported
# this module first of all.
IMPORTED_BY = os.getpid()
IMPORTED_CODE = code_of(PACKAGE)


def check_tmpdir() -> None:
    """Raises ConfigurationError where the folder for temporary files has too long a path."""
    folder = tempfile.gettempdir()
    if FORKS and len(os.fsencode(folder)) > LONGEST_TMPDIR:
        raise ConfigurationError(
            f"The path of the folder for temporary files is too long for a socket: {folder}. Set "
            f"TMPDIR to one of at most {LONGEST_TMPDIR} bytes, such as /tmp."
        )


def die_with_parent(number: int) -> None:
    """Lets the kernel send this signal to this process when its parent has died."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def call_it(name: str) -> None:
    """Name this process as `ps -e` and `top` show it; their command lines are all the same."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


class Forked(ForkServerProcess):
    """A process that ends with the warm process."""

    at_parents_death = signal.SIGKILL

    def run(self) -> None:
        """Ties this process to its parent, then works."""
        die_with_parent(self.at_parents_death)
        # The parent may have died before: then nothing would end this process.
        if os.getppid() != IMPORTED_BY:
            os._exit(1)
        # What this process starts forks from the warm process too. Python knows its address here,
        # but starts another unless it is a child of this process. Since 3.14 it has a key, which
        # stays there.
        if sys.version_info < (3, 14):
            _start_no_other()
        super().run()


class ForkedRun(Forked):
    """A run: it dies with the warm process.

    The code server learns of a run's end from the warm process only: when that one is gone, it
    reports its runs as failed, and the request is tried again by another run.
    """


class ForkedServer(Forked):
    """One of the processes of `dev`: it ends in order when the warm process has died."""

    at_parents_death = signal.SIGTERM


class WarmContext(ForkServerContext):
    """As `multiprocessing.get_context("forkserver")`, for forked runs."""

    Process = ForkedRun


class RunStarter:
    """Chooses how the next run starts: forked, or spawned once the code has changed.

    `imported` is the code that the code server and the warm process have. A spawned run reads the
    code as it is now.
    """

    def __init__(self, package: Path, imported: Mapping[Path, int]) -> None:
        self._package, self._imported = package, imported
        if FORKS:
            forkserver.set_forkserver_preload(FOR_RUNS)
            # Now: the first run should find it warm. After a death the next run starts another.
            # A code server that was forked itself starts none (with Python before 3.14).
            forkserver._forkserver.ensure_running()

    def context(self) -> BaseContext:
        """The context of `multiprocessing` for the next run."""
        if FORKS and code_of(self._package) == self._imported:
            return WarmContext()
        return multiprocessing.get_context("spawn")


@contextmanager
def warm_process(environ: Mapping[str, str], output: int) -> Iterator[BaseContext]:
    """On Linux, starts the process that those of `dev` are forked from; stops it at the end.

    All that is forked has this environment, and writes to the descriptor `output` unless it is
    given another. What is left of it at the end dies with the warm process. Once that is dead,
    starting raises ConnectionError.
    """
    if not FORKS:
        yield multiprocessing.get_context("spawn")
        return
    # Another use of multiprocessing in this process may have started one without our modules.
    _stop()
    forkserver.set_forkserver_preload(FOR_ALL)
    # Otherwise it would be started below, and keep the output open for ever.
    resource_tracker.ensure_running()
    with _inherited({**environ, STARTED_BY: str(os.getpid())}, output):
        forkserver.ensure_running()
    _start_no_other()
    try:
        yield WarmContext()
    finally:
        _stop()


def _start_no_other() -> None:
    """Otherwise multiprocessing would start another, without our environment, after a death."""
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]


def _stop() -> None:
    """Stops the forkserver of this process, and not only once all that it forked has ended."""
    vars(forkserver._forkserver).pop("ensure_running", None)
    if pid := forkserver._forkserver._forkserver_pid:  # type: ignore[attr-defined]
        # It has nothing to end in order, and may be stopped.
        os.kill(pid, signal.SIGKILL)
        forkserver._forkserver._stop()  # type: ignore[attr-defined]


@contextmanager
def _inherited(environ: Mapping[str, str], output: int) -> Iterator[None]:
    """What a new process takes over: multiprocessing has no options for them."""
    before = dict(os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    with ExitStack() as undo:
        for number in (1, 2):
            kept = os.dup(number)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, number)
            os.dup2(output, number)
        undo.callback(os.environ.update, before)
        undo.callback(os.environ.clear)
        os.environ.update(environ)
        yield


def start_server(
    name: str, command: Sequence[str], environ: Mapping[str, str], output: int
) -> BaseProcess:
    """Starts `python -m COMMAND` by name, forked from the warm process where there is one."""
    process_class = ForkedServer if FORKS else multiprocessing.get_context("spawn").Process
    with (
        nullcontext() if FORKS else _inherited(environ, output),
        # A Connection, because multiprocessing hands over no bare descriptor.
        Connection(os.dup(output), readable=False) as log,
    ):
        process = process_class(name=name, target=_serve, args=(name, command, environ, log))
        process.start()
    return process


def _serve(name: str, command: Sequence[str], environ: Mapping[str, str], log: Connection) -> None:
    # A group of its own, so that it can be killed with what it has started.
    os.setsid()
    os.umask(UMASK)
    if FORKS:
        call_it(name)
    os.environ.update(environ)
    for number in (1, 2):
        os.dup2(log.fileno(), number)
    log.close()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    # Otherwise each run would import the main module of `dev`.
    sys.modules["__main__"] = ModuleType("__main__")
    module, *sys.argv[1:] = command
    sys.argv[0] = module
    try:
        import_module(module).main()
    except Exception:
        # With the redaction that the process has installed.
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
