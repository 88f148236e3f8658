"""`dev` as a process: what it leaves in the home, and that it leaves no process behind."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from spotify_pipeline.cli.local.dagster_processes import Child, Log, free_port
from spotify_pipeline_tests.cli.conftest import COMMAND, only_line
from spotify_pipeline_tests.storage.embedded.processes import until

HOME = "SPOTIFY_PIPELINE_HOME"
# What a script does before `dev &`, and what a careless service manager may do.
IGNORING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@pytest.fixture
def dev(dagster: object) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts `dev`, with ignored and blocked signals under an open umask, and waits for the UI."""
    started: list[subprocess.Popen[str]] = []

    def ignore() -> None:
        for number in IGNORING:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])

    def dev(command: Sequence[str] = COMMAND, cwd: Path | None = None) -> "subprocess.Popen[str]":
        program = subprocess.Popen(
            [
                *command,
                "dev",
                "--port",
                str(free_port(None, first=22_000 + 50 * (os.getpid() % 100))),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            umask=0,
            preexec_fn=ignore,
        )
        started.append(program)
        lines: list[str] = []
        assert program.stdout is not None
        while not re.search("users list", "".join(lines)):
            lines.append(program.stdout.readline())
            assert lines[-1], lines
        return program

    yield dev
    for program in started:
        program.kill()
        program.wait()


def below(program: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(program.pid).children(recursive=True)


def inherited(process: psutil.Process) -> set[int]:
    """Which signals of IGNORING a process ignores or blocks."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    masks = [int(found, 16) for found in re.findall(r"Sig(?:Ign|Blk):\s*(\w+)", status)]
    return {number for number in IGNORING for mask in masks if mask >> (number - 1) & 1}


def test_killing_dev_leaves_no_process_whatever_signals_were_ignored(dev) -> None:
    program = dev()
    children = below(program)
    assert len(children) >= 3
    for child in children:
        # Those of multiprocessing itself ignore signals, and end with the others.
        if child.parent().pid != program.pid:
            assert inherited(child) == set()
        if "resource_tracker" not in " ".join(child.cmdline()):
            # Otherwise Ctrl-C would interrupt runs before the code server ends them in order.
            assert os.getsid(child.pid) != os.getsid(program.pid)
    program.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    try:
        assert alive == []
    finally:
        for process in alive:
            process.kill()


def test_dev_that_is_killed_while_it_starts_leaves_no_process(
    dagster: object, tmp_path: Path
) -> None:
    home = os.environ[HOME]

    def of_dev() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(HOME) == home:
                    found.append(process)
        return found

    port = str(free_port(None, first=22_000 + 50 * (os.getpid() % 100)))
    program = subprocess.Popen([*COMMAND, "dev", "--port", port], stdout=subprocess.DEVNULL)
    until(lambda: any("forkserver" in " ".join(child.cmdline()) for child in below(program)))
    program.kill()
    program.wait()
    until(lambda: not of_dev())


def test_dev_leaves_only_private_files_and_reports_its_stop(dev, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for folder in (home, home / "dagster", home / "logs"):
        folder.mkdir()
        folder.chmod(0o755)
    for file in ("dagster/dagster.yaml", "dagster/workspace.yaml", "logs/daemon.log"):
        (home / file).touch()
        (home / file).chmod(0o666)
    program = dev()
    found = [home, *home.rglob("*")]
    assert len(found) > 8
    open_ones = [str(path) for path in found[1:] if stat.S_IMODE(os.lstat(path).st_mode) & 0o077]
    program.terminate()
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    assert "Stopping Dagster" in said
    assert open_ones == []


def test_when_the_process_that_all_are_forked_from_is_killed_dev_says_so_and_leaves_nothing(
    dev,
) -> None:
    program = dev()
    children = below(program)
    direct = psutil.Process(program.pid).children()
    (warm,) = (child for child in direct if child.name() == "warm process")
    warm.kill()
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "Start again" in said
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_modules_in_the_folder_that_dev_is_started_in_do_not_hide_ours(dev, tmp_path: Path) -> None:
    folder = tmp_path / "somewhere"
    folder.mkdir()
    for name in ("dagster", "random", "spotify_pipeline"):
        (folder / f"{name}.py").write_text("raise SystemExit('not this one')")
    # With -m, Python itself would look here first.
    dev([str(Path(sys.executable).with_name("spotify-pipeline"))], cwd=folder)


def test_dev_ends_though_its_warm_process_is_stopped(dev) -> None:
    program = dev()
    children = below(program)
    (warm,) = (child for child in children if child.name() == "warm process")
    warm.suspend()
    program.terminate()
    program.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_a_killed_process_of_dev_is_named_with_its_signal(dev) -> None:
    program = dev()
    (daemon,) = (child for child in below(program) if child.name() == "daemon")
    daemon.kill()
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "The daemon was killed by signal 9 (Killed). Start again" in said


def test_a_port_on_which_another_program_listens_is_not_taken_for_ours(tmp_path: Path) -> None:
    """Such as another `dev`, which chose the same free port in the same second."""
    process = get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    child = Child("web page", (), {}, Log.opened(tmp_path / "page.log"), process)
    try:
        with socket.create_server(("127.0.0.1", 0)) as other:
            assert not child.listens(other.getsockname()[1])
    finally:
        process.kill()


def test_a_long_tmpdir_is_one_sentence(process, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    for command in (["dev"], ["serve", "code-server"]):
        done = process(*command, TMPDIR=str(long))
        assert done.returncode == 2
        assert "Set TMPDIR to one of at most 75 bytes" in only_line(done)
