"""Dagster's code server, webserver and daemon as child processes that live and die together.

`dagster dev` would start a code server twice and exit 0 when its daemon dies; three processes of
our own start in a third of the time, and the death of one is an error that names it. Their log
files are plain text, rotated, kept over restarts.
"""

import contextlib
import io
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from logging.handlers import RotatingFileHandler
from multiprocessing.process import BaseProcess
from pathlib import Path
from secrets import token_urlsafe
from typing import IO, Any

import psutil
import requests

from spotify_pipeline.defs.instance import LOCATION, PROCESSES, dagster_home
from spotify_pipeline.defs.instance.processes.warm_process import (
    NOT_FROM_HERE,
    check_tmpdir,
    start_server,
    warm_process,
)
from spotify_pipeline.errors import PipelineError
from spotify_pipeline.home import private_folder, write_private
from spotify_pipeline.settings import ConfigurationError, Settings

LARGEST_BYTES = 5_000_000
OLD_FILES = 3

# Dagster colours its log in files too.
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(descriptor, 0o600)
        return io.open(descriptor, "a", encoding="utf-8", errors="replace")  # noqa: UP020


@dataclass(frozen=True)
class Log:
    """A log file, and the pipe through which processes write to it."""

    path: Path
    pipe: IO[bytes]
    thread: threading.Thread

    @classmethod
    def opened(cls, path: Path) -> "Log":
        """A thread copies what is written to the file, 0600 and without colours."""
        handler = _PrivateFile(path, maxBytes=LARGEST_BYTES, backupCount=OLD_FILES)
        reading, writing = os.pipe()

        def copy() -> None:
            with os.fdopen(reading, "rb") as output:
                for line in output:
                    plain = _COLOURS.sub(b"", line).decode(errors="replace").rstrip("\n")
                    handler.emit(logging.LogRecord(path.stem, 0, "", 0, plain, None, None))
            handler.close()

        thread = threading.Thread(target=copy, name=f"log of {path.stem}", daemon=True)
        thread.start()
        return cls(path, os.fdopen(writing, "wb", buffering=0), thread)

    def tail(self, lines: int = 15) -> str:
        """The end of the file; waits a second for what processes have just written."""
        self.thread.join(timeout=1)
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-lines:])

    def end(self) -> None:
        """Waits until all is in the file that was written by processes which have ended."""
        self.pipe.close()
        self.thread.join(timeout=2)


READY_SECONDS = 90
STOP_SECONDS = 8
PAGE_PORT = 8000
CODE_SERVER = "code server"
LAUNCH = "mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {__typename} }"


START_AGAIN = "Start again: what was at work is tried again."
WARM_PROCESS_DIED = (
    "The process from which all others are forked was killed, perhaps because memory ran out. "
    + START_AGAIN
)
# The exit code of what was forked from it, as multiprocessing then says.
UNREPORTED = 255


class StackFailed(PipelineError):
    """One of the processes did not start, or died; the message says which and shows its log."""


def killed_by(number: int) -> str:
    """Which signal killed a process, as the end of a sentence."""
    return f"was killed by signal {number} ({signal.strsignal(number)})"


@dataclass(frozen=True)
class Child:
    """A started process, how to start another, and where it writes."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    log: Log
    process: BaseProcess

    @classmethod
    def started(
        cls, name: str, command: Sequence[str], environ: Mapping[str, str], log: Log
    ) -> "Child":
        """Start it. From then on only it and its children write to the log."""
        process = start_server(name, command, environ, log.pipe.fileno())
        log.pipe.close()
        return cls(name, command, environ, log, process)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def exists(self) -> bool:
        """Whether it runs, also when the process that would report its end has died."""
        # Asked first, because this reaps a spawned process, whose id exists until then.
        if self.process.is_alive():
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def listens(self, port: int) -> bool:
        """Whether it is this process that answers there: another may have taken the port."""
        with contextlib.suppress(psutil.Error):
            return any(
                found.status == psutil.CONN_LISTEN and found.laddr.port == port
                for found in psutil.Process(self.pid).net_connections("tcp")
            )
        return False

    def how_it_ended(self) -> str:
        """Its exit code or the signal that killed it, in words."""
        code = self.process.exitcode or 0
        return killed_by(-code) if code < 0 else f"ended ({code})"


@dataclass(frozen=True)
class Stack:
    """The running processes and the address of the UI."""

    url: str
    children: Sequence[Child]
    # None: not started.
    page_url: str | None = None

    def check(self) -> None:
        """Raises StackFailed when a process has died."""
        for child in self.children:
            if not child.process.is_alive():
                if child.process.exitcode == UNREPORTED:
                    raise StackFailed(WARM_PROCESS_DIED)
                raise StackFailed(
                    f"The {child.name} {child.how_it_ended()}. {START_AGAIN} "
                    f"Its log is {child.log.path} and ends with:\n{child.log.tail()}"
                )

    def launch(self, job: str) -> None:
        """Launch a run of this job, as the UI's launchpad does. Raises StackFailed if refused."""
        selector = {
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
            "jobName": job,
        }
        answer = requests.post(
            f"{self.url}/graphql",
            json={
                "query": LAUNCH,
                "variables": {"params": {"selector": selector, "runConfigData": {}}},
            },
            timeout=READY_SECONDS,
        )
        launched = answer.json()["data"]["launchRun"]["__typename"] if answer.ok else answer.reason
        if launched != "LaunchRunSuccess":
            raise StackFailed(f"The UI did not launch {job}: {launched}.")

    def wait(self, seconds: float, done: Callable[[], bool], what: str) -> None:
        """Return as soon as `done()`; raises StackFailed on a death or when the time is over."""
        deadline = time.monotonic() + seconds
        while not done():
            self.check()
            if time.monotonic() > deadline:
                tails = "\n".join(f"{child.name}: {child.log.tail(5)}" for child in self.children)
                raise StackFailed(f"{what} was not done after {seconds:.0f} s.\n{tails}")
            time.sleep(0.1)


def free_port(wanted: int | None, first: int = 3000) -> int:
    """The wanted port, or the first free one from `first`. Raises ConfigurationError if taken."""
    for port in [wanted] if wanted else range(first, first + 50):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise ConfigurationError(
        f"Port {wanted} is taken: choose another with --port, or leave it out."
        if wanted
        else f"No port from {first} to {first + 49} is free: choose one with --port."
    )


@contextlib.contextmanager
def running_stack(
    settings: Settings,
    port: int | None = None,
    *,
    with_page: bool = False,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[Stack]:
    """Start all three, wait until the UI has loaded our code, stop all three at the end.

    `with_page`: and the web page, on the first free port from 8000, with its cache hook. `prepare`
    is called while what they are forked from imports. Raises StackFailed, ConfigurationError.
    """
    check_tmpdir()
    home = dagster_home(settings)
    # A random port: two stacks that start together must not choose the same free one.
    ui_port, grpc_port = free_port(port), free_port(None, first=4266 + 50 * (os.getpid() % 100))
    workspace = home / "workspace.yaml"
    write_private(
        workspace,
        f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {grpc_port}, "
        f"location_name: {LOCATION}}}\n",
    )
    env = {
        "SPOTIFY_PIPELINE_HOME": str(settings.home),
        "DAGSTER_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        **NOT_FROM_HERE,
    }
    loopback = "127.0.0.1"
    commands: dict[str, list[str]] = {
        CODE_SERVER: [
            *(f"{PROCESSES}.code_server", "-m", "spotify_pipeline.definitions"),
            *("--host", loopback, "--port", str(grpc_port), "--location-name", LOCATION),
        ],
        "webserver": [
            *(f"{PROCESSES}.webserver", "-h", loopback, "-p", str(ui_port)),
            *("-w", str(workspace)),
        ],
        "daemon": [f"{PROCESSES}.daemon", "run", "-w", str(workspace)],
    }
    ports = {CODE_SERVER: grpc_port, "webserver": ui_port}
    page_url = None
    if with_page:
        ports["web page"] = page_port = free_port(None, first=PAGE_PORT)
        page_url = f"http://{loopback}:{page_port}"
        env |= _hook_environment(settings, page_port)
        commands["web page"] = ["spotify_pipeline.cli.main", "web", "--port", str(page_port)]
    logs = private_folder(settings.home, "logs")
    opened = {name: Log.opened(logs / f"{name.replace(' ', '-')}.log") for name in commands}
    try:
        # Runs write where the code server does.
        with (
            warm_process(env, opened[CODE_SERVER].pipe.fileno()) as context,
            _stopped_at_the_end() as children,
        ):
            stack = Stack(f"http://{loopback}:{ui_port}", children, page_url)

            def await_ports() -> None:
                for child in children:
                    if port := ports.get(child.name):
                        listens = partial(child.listens, port)
                        stack.wait(READY_SECONDS, listens, f"Starting the {child.name}")

            prepare()
            try:
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    pool.submit(_make_tables, settings).result()
                for name, command in commands.items():
                    children.append(Child.started(name, command, env, opened[name]))
                    # A daemon or webserver that looks for our code too early waits 10 s and more.
                    if name == CODE_SERVER:
                        await_ports()
            except (BrokenProcessPool, ConnectionError, EOFError) as error:
                tail = opened[CODE_SERVER].tail()
                raise StackFailed(f"{WARM_PROCESS_DIED}\n{tail}") from error
            await_ports()
            stack.wait(READY_SECONDS, lambda: _code_is_loaded(stack.url), "Starting Dagster")
            if page_url:
                stack.wait(READY_SECONDS, lambda: _answers(page_url), "Starting the web page")
            yield stack
    finally:
        for log in opened.values():
            log.end()


def _hook_environment(settings: Settings, port: int) -> Mapping[str, str]:
    """What lets the pipeline call this page's cache hook; nothing if a hook is configured."""
    if settings.revalidate_url is not None:
        return {}
    return {
        "SPOTIFY_PIPELINE_REVALIDATE_URL": f"http://127.0.0.1:{port}/hooks/revalidate",
        "SPOTIFY_PIPELINE_REVALIDATE_SECRET": (
            settings.revalidate_secret.get_secret_value()
            if settings.revalidate_secret
            else token_urlsafe(32)
        ),
    }


def _make_tables(settings: Settings) -> None:
    from spotify_pipeline.defs.in_process import make_tables

    make_tables(settings)


@contextlib.contextmanager
def _stopped_at_the_end() -> Iterator[list[Child]]:
    """Ask all to end, then kill what has not: the webserver waits for open browsers for ever."""
    children: list[Child] = []
    try:
        yield children
    finally:
        _stop(children)


def _stop(children: Sequence[Child]) -> None:
    with _undisturbed():
        for child in children:
            child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            while child.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            if child.exists():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                # A warm process that is stopped reports no end.
                child.process.join(timeout=1)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C, which would leave half of the processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.RequestException:
        return False


def _code_is_loaded(url: str) -> bool:
    query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
    try:
        answer = requests.post(f"{url}/graphql", json={"query": query}, timeout=5)
        nodes = answer.json()["data"]["repositoriesOrError"]["nodes"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return False
    return bool(nodes)
