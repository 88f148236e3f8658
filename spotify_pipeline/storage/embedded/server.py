"""One Postgres process on the data directory of a home: start, adopt, stop."""

import os
import random
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from spotify_pipeline.storage.embedded.account import Account
from spotify_pipeline.storage.embedded.data import find_program
from spotify_pipeline.storage.embedded.home import EmbeddedPostgresError, PostgresHome

# Below the ports that systems hand out to outgoing connections (Linux from 32768).
PORTS = range(20_000, 32_768)
START_ATTEMPTS_S = 30.0
STOP_S = 60.0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path is at most 107 bytes, a home's may be longer
    "cluster_name": "spotify_pipeline",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Parallel plans need shared memory, of which a container has 64 MB and then fails.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    # In files of the data directory: what a killed server leaves in /dev/shm nobody cleans up.
    "dynamic_shared_memory_type": "mmap",
    # One machine, one disk: three reader processes would only add weight.
    "io_method": "sync",
    # No statement and no row in the log: both may hold personal data.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}

# Postgres says these while the remains of a killed server go, and when a port is taken.
_TRANSIENT = re.compile(rb"still in use|already exists|could not create any TCP/IP sockets")


@dataclass(frozen=True)
class Postmaster:
    """A running Postgres: our child, or one that a killed supervisor left behind."""

    pid: int
    port: int
    data: Path
    child: subprocess.Popen[bytes] | None = None

    def is_alive(self) -> bool:
        if self.child:
            return self.child.poll() is None
        return is_postmaster(self.pid, self.data)

    def gave_up(self) -> bool:
        """Whether it ended of itself. If somebody killed it, another start may well succeed."""
        return self.child is not None and (self.child.returncode or 0) > 0

    def stop(self) -> None:
        """Ends it: fast first (a clean end), at once if that takes too long."""
        for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGQUIT, 10), (9, 10)):
            if not self.is_alive():
                return
            os.kill(self.pid, number)
            deadline = time.monotonic() + patience_s
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)


def start_postmaster(home: PostgresHome, account: Account) -> Postmaster:
    """Starts Postgres, or adopts the one that runs, and waits until it accepts connections.

    However long recovery takes it waits. Raises EmbeddedPostgresError when Postgres ends instead.
    """
    deadline = time.monotonic() + START_ATTEMPTS_S
    while True:
        log_size = home.log.stat().st_size if home.log.exists() else 0
        postmaster = _find_postmaster(home) or _launch(home, account)
        while postmaster.is_alive():
            if _status(home, postmaster.pid) == b"ready":
                return postmaster
            time.sleep(0.01)
        with home.log.open("rb") as log:
            log.seek(log_size)
            said = log.read()
        hopeless = postmaster.gave_up() and not _TRANSIENT.search(said)
        if hopeless or time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"Postgres did not start; {home.log} says:\n{home.log_tail()}"
            )
        _end_leftovers(home, account)
        time.sleep(0.1)


def _end_leftovers(home: PostgresHome, account: Account) -> None:
    """Ends what a killed Postgres left: a process busy with a query does not notice its death.

    Needs /proc; without it such a process ends with its query. The data is safe either way:
    Postgres does not start beside it.
    """
    # Looked at as the account itself: without CAP_SYS_PTRACE root may not see its folders.
    end_if_ours = '[ "$1/cwd" -ef "$2" ] && kill -9 "${1#/proc/}"'
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"postgres: "):
            account.run(["/bin/sh", "-c", end_if_ours, "sh", process, home.data])


def _launch(home: PostgresHome, account: Account) -> Postmaster:
    # A stale postmaster.pid whose number now belongs to another process of ours, as happens when
    # a container restarts, would keep Postgres from starting.
    (home.data / "postmaster.pid").unlink(missing_ok=True)
    port = choose_port(home)
    command: list[str | Path] = [find_program("postgres"), "-D", home.data, "-p", str(port)]
    for name, value in SETTINGS.items():
        command += ["-c", f"{name}={value}"]
    fd = os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(fd, "wb") as log:
        child = account.popen(command, stdout=log)
    return Postmaster(child.pid, port, home.data, child)


def choose_port(home: PostgresHome, ports: range = PORTS) -> int:
    """The port of last time, or if it is taken another free one, which is remembered.

    Raises EmbeddedPostgresError when none is free.
    """
    remembered = home.folder / "port"
    known = remembered.read_text().strip() if remembered.exists() else ""
    # Random, so that two homes that start at once do not run for the same one.
    candidates = [int(known)] if known.isdigit() else []
    candidates += random.sample(ports, min(200, len(ports)))
    for port in candidates:
        if _is_free(port):
            if str(port) != known:
                home.write("port", str(port))
            return port
    raise EmbeddedPostgresError(
        f"No free port was found between {ports.start} and {ports.stop - 1} on 127.0.0.1: "
        "stop what occupies them, or set SPOTIFY_PIPELINE_DATABASE_URL to a PostgreSQL server."
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _pid_file(home: PostgresHome) -> list[bytes]:
    """postmaster.pid: pid, data directory, start, port, socket folder, host, memory, status."""
    try:
        lines = (home.data / "postmaster.pid").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines]


def _status(home: PostgresHome, pid: int) -> bytes:
    lines = _pid_file(home)
    return lines[7] if len(lines) > 7 and lines[0] == b"%d" % pid else b""


def _find_postmaster(home: PostgresHome) -> Postmaster | None:
    """The Postgres that already runs on this data directory."""
    lines = _pid_file(home)
    if len(lines) < 4 or not lines[0].isdigit() or not lines[3].isdigit():
        return None
    postmaster = Postmaster(int(lines[0]), int(lines[3]), home.data)
    if _status(home, postmaster.pid) == b"stopping":
        postmaster.stop()
    return postmaster if postmaster.is_alive() else None


def is_postmaster(pid: int, data: Path) -> bool:
    """Whether the process lives and is a Postgres started by us on this data directory."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        if Path("/proc/self").exists():
            return False
        shown = subprocess.run(
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        ).stdout
        return b"postgres -D " + os.fsencode(data) in shown
    return len(command) > 2 and command[1:3] == [b"-D", os.fsencode(data)]
