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
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any

import requests

from spotify_pipeline.cli.operate.serve import hook_environment
from spotify_pipeline.defs.in_process import LOCATION, PROCESSES, dagster_home, opened_instance
from spotify_pipeline.errors import PipelineError
from spotify_pipeline.home import UMASK, private_folder, write_private
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


def keep_log(output: IO[bytes], path: Path) -> threading.Thread:
    """Write a process's output to a file, 0600, in the background, until the process ends."""
    handler = _PrivateFile(path, maxBytes=LARGEST_BYTES, backupCount=OLD_FILES)

    def copy() -> None:
        with output:
            for line in output:
                plain = _COLOURS.sub(b"", line).decode(errors="replace").rstrip("\n")
                handler.emit(logging.LogRecord(path.stem, 0, "", 0, plain, None, None))
        handler.close()

    thread = threading.Thread(target=copy, name=f"log of {path.stem}", daemon=True)
    thread.start()
    return thread


READY_SECONDS = 90
STOP_SECONDS = 8
PAGE_PORT = 8000
LAUNCH = "mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {__typename} }"


class StackFailed(PipelineError):
    """One of the processes did not start, or died; the message says which and shows its log."""


@dataclass(frozen=True)
class Child:
    """A started process and where it writes."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    logging: threading.Thread

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        if self.process.poll() is not None:
            # The last output of a dead process, unless one of its children keeps the pipe open.
            self.logging.join(timeout=1)
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True)
class Stack:
    """The running processes and the address of the UI."""

    url: str
    children: tuple[Child, ...]
    # None: not started.
    page_url: str | None = None

    def check(self) -> None:
        """Raises StackFailed when a process has died."""
        for child in self.children:
            if child.process.poll() is not None:
                raise StackFailed(
                    f"The {child.name} died with exit code {child.process.returncode}. "
                    f"Its log is {child.log} and ends with:\n{child.tail()}"
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
                tails = "\n".join(f"{child.name}: {child.tail(5)}" for child in self.children)
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
) -> Iterator[Stack]:
    """Start all three, wait until the UI has loaded our code, stop all three at the end.

    `with_page`: and the web page, on the first free port from 8000, with its cache hook.
    Raises StackFailed, ConfigurationError.
    """
    # Dagster's tables are made here once, and not by three processes at the same time.
    with opened_instance(settings):
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
        **os.environ,
        "SPOTIFY_PIPELINE_HOME": str(settings.home),
        "DAGSTER_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }
    loopback = "127.0.0.1"
    commands: dict[str, list[str]] = {
        "code server": [
            *(f"{PROCESSES}.code_server", "-m", "spotify_pipeline.definitions"),
            *("--host", loopback, "--port", str(grpc_port), "--location-name", LOCATION),
        ],
        "webserver": [
            *(f"{PROCESSES}.webserver", "-h", loopback, "-p", str(ui_port)),
            *("-w", str(workspace)),
        ],
        "daemon": [f"{PROCESSES}.daemon", "run", "-w", str(workspace)],
    }
    page_url = None
    if with_page:
        page_port = free_port(None, first=PAGE_PORT)
        page_url = f"http://{loopback}:{page_port}"
        env |= hook_environment(settings, page_port)
        commands["web page"] = ["spotify_pipeline.cli.main", "web", "--port", str(page_port)]
    children: list[Child] = []
    try:
        for name, arguments in commands.items():
            children.append(_start(name, arguments, settings, env))
        stack = Stack(f"http://{loopback}:{ui_port}", tuple(children), page_url)
        stack.wait(READY_SECONDS, lambda: _code_is_loaded(stack.url), "Starting Dagster")
        if page_url:
            stack.wait(READY_SECONDS, lambda: _answers(page_url), "Starting the web page")
        yield stack
    finally:
        _stop(children)


def _start(name: str, arguments: list[str], settings: Settings, env: Mapping[str, str]) -> Child:
    log = private_folder(settings.home, "logs") / f"{name.replace(' ', '-')}.log"
    # When this process is killed, its children must not live on and hold the database.
    with_parent = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    process = subprocess.Popen(
        [*with_parent, sys.executable, "-m", *arguments],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C is for us; we stop them in order.
        start_new_session=True,
        umask=UMASK,
        preexec_fn=_default_signals,
    )
    assert process.stdout is not None
    return Child(name, process, log, keep_log(process.stdout, log))


def _default_signals() -> None:
    """Undo what a child would inherit: a script's `dev &` ignores SIGINT.

    Dagster gives SIGTERM the handler of SIGINT, so its processes would ignore both and outlive us.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _stop(children: Sequence[Child]) -> None:
    """Ask all to end, then kill what has not: the webserver waits for open browsers for ever."""
    with _undisturbed():
        for child in children:
            child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()


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
