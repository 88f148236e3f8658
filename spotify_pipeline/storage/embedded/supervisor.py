"""The process that keeps the embedded Postgres of one home alive while somebody uses it.

    python -m spotify_pipeline.storage.embedded.supervisor HOME

One per home. It starts Postgres, starts it again when it dies, and stops it when the last client
has left. It learns of clients by a lock that each of them holds for its life: the kernel lets go
of it however a client ends, SIGKILL included.
It answers on standard output with "ready", or with the sentence of an error, or with nothing when
another supervisor has the home. Standard library only.
"""

import contextlib
import fcntl
import os
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from spotify_pipeline.storage.embedded.account import choose_account
from spotify_pipeline.storage.embedded.data import find_program, prepare_data, server_version
from spotify_pipeline.storage.embedded.home import (
    EmbeddedPostgresError,
    PostgresHome,
    RunningServer,
    try_lock,
)
from spotify_pipeline.storage.embedded.server import Postmaster, start_postmaster

POLL_S = 0.2
# Command after command should find the server warm.
GRACE_S = 1.0
# A server that dies this young so many times in a row will not get better by another start.
YOUNG_S = 2.0
MAX_YOUNG_DEATHS = 10


class Supervisor:
    """Serves one home until its last client has left, or it is told to end (SIGTERM)."""

    def __init__(self, home: PostgresHome, lock_fd: int) -> None:
        self.home = home
        self.lock_fd = lock_fd
        self.clients_fd = os.open(home.clients_lock, os.O_RDWR | os.O_CREAT, 0o600)
        self.told_to_end = False
        self.postmaster: Postmaster | None = None
        self.started = 0.0
        self.young_deaths = 0
        self.idle_since: float | None = None

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Whoever started us may have blocked signals, or ignored the deaths of children.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self.account = choose_account(self.home, find_program("postgres"))
        self.version = server_version(self.account)
        prepare_data(self.home, self.account, self.version)
        try:
            self._start()
            answer("ready")
            while not (self.told_to_end or self._is_deserted() or self._is_evicted()):
                if self.postmaster and not self.postmaster.is_alive():
                    self.start_again()
                self.home.rotate_log()
                time.sleep(POLL_S)
        finally:
            if not self._is_evicted():
                self.home.forget_server()
            if self.postmaster:
                self.postmaster.stop()

    def _end(self, *_: object) -> None:
        self.told_to_end = True

    def _start(self) -> None:
        self.postmaster = start_postmaster(self.home, self.account)
        self.started = time.monotonic()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.home.publish(
            RunningServer(self.postmaster.pid, self.postmaster.port, self.version, now)
        )

    def start_again(self) -> None:
        self.home.forget_server()
        lived_s = time.monotonic() - self.started
        self.young_deaths = self.young_deaths + 1 if lived_s < YOUNG_S else 0
        if self.young_deaths >= MAX_YOUNG_DEATHS:
            raise EmbeddedPostgresError(
                f"Postgres died {self.young_deaths} times in a row within {YOUNG_S:.0f} seconds "
                f"of its start, so it is not started again; {self.home.log} says why."
            )
        say("Postgres died; starting it again.")
        self._start()

    def _is_deserted(self) -> bool:
        """Whether nobody has used the server for a while. If so no client can join any more."""
        if not try_lock(self.clients_fd, fcntl.LOCK_EX):
            self.idle_since = None
            return False
        now = time.monotonic()
        self.idle_since = self.idle_since or now
        if now - self.idle_since >= GRACE_S:
            return True  # and keep the lock until we are gone: who comes now waits for that
        fcntl.flock(self.clients_fd, fcntl.LOCK_UN)
        return False

    def _is_evicted(self) -> bool:
        """Whether our home was deleted, or replaced by another that is not ours to serve."""
        try:
            found = os.stat(self.home.supervisor_lock)
        except OSError:
            return True
        return not os.path.samestat(found, os.fstat(self.lock_fd))


def answer(text: str) -> None:
    """Tells the process that started us, which waits for standard output to end. Once."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def say(text: str) -> None:
    """A line in the log, in the form of Postgres."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    print(f"{now} UTC [{os.getpid()}] SUPERVISOR:  {text}", file=sys.stderr, flush=True)


def lock_home(home: PostgresHome) -> int | None:
    """Takes the supervisor's lock for life. None when another supervisor has it."""
    fd = os.open(home.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + 0.5
    # More than one look: clients take the lock for a moment to see whether we live.
    while not try_lock(fd, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(fd)
            return None
        time.sleep(0.01)
    return fd


def main(home_path: str) -> int:
    os.umask(0o077)
    # Detached for good: nobody's child, so that who ends his children does not end us.
    if os.fork():
        os._exit(0)
    home = PostgresHome(Path(home_path))
    try:
        lock_fd = lock_home(home)
        if lock_fd is None:
            return 0
        home.forget_server()
        Supervisor(home, lock_fd).run()
    except EmbeddedPostgresError as error:
        say(str(error))
        answer(str(error))
        return 1
    except Exception:
        traceback.print_exc()
        answer(f"The supervisor of the embedded Postgres failed; {home.log} says why.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
