"""The process that keeps the embedded Postgres of one home running while clients use it.

    python -m spotify_pipeline.storage.embedded.supervisor HOME

One per home. It starts Postgres, restarts it when it dies, and stops it when the last client has
left. Each client holds a shared flock for its life, which the kernel releases however the client
ends, SIGKILL included.
It writes "ready" or an error's sentence to standard output, or nothing when another supervisor
runs for this home.
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

from spotify_pipeline.storage.embedded.home import (
    EmbeddedPostgresError,
    PostgresHome,
    try_lock,
)
from spotify_pipeline.storage.embedded.postmaster import (
    Postmaster,
    choose_user,
    prepare_data,
    start_postmaster,
)

POLL_S = 0.2
# How long the server outlives its last client: a script's next command should find it running.
GRACE_S = 1.0
# A server that dies this soon after its start so many times in a row is not restarted again.
YOUNG_S = 2.0
MAX_YOUNG_DEATHS = 10


class Supervisor:
    """Serves one home until its last client has left, or until SIGTERM."""

    def __init__(self, home: PostgresHome, lock_fd: int) -> None:
        self.home = home
        self.lock_fd = lock_fd
        self.clients_fd = os.open(home.clients_lock, os.O_RDWR | os.O_CREAT, 0o600)
        self.terminated = False
        self.postmaster: Postmaster | None = None
        self.started = 0.0
        self.young_deaths = 0
        self.idle_since: float | None = None

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # The client that started this process may block signals or ignore SIGCHLD.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self.user, version = choose_user(self.home)
        prepare_data(self.home, self.user, version)
        try:
            self._start()
            answer("ready")
            while not (self.terminated or self._is_unused() or self._home_is_gone()):
                if self.postmaster and not self.postmaster.is_alive():
                    self.restart()
                self.home.rotate_log()
                time.sleep(POLL_S)
        finally:
            if self.postmaster:
                self.postmaster.stop()

    def _end(self, *_: object) -> None:
        self.terminated = True

    def _start(self) -> None:
        self.postmaster = start_postmaster(self.home, self.user)
        self.started = time.monotonic()

    def restart(self) -> None:
        lived_s = time.monotonic() - self.started
        self.young_deaths = self.young_deaths + 1 if lived_s < YOUNG_S else 0
        if self.young_deaths >= MAX_YOUNG_DEATHS:
            raise EmbeddedPostgresError(
                f"Postgres died {self.young_deaths} times in a row within {YOUNG_S:.0f} seconds "
                f"of its start, so it is not started again; {self.home.log} says why."
            )
        log("Postgres died; starting it again.")
        self._start()

    def _is_unused(self) -> bool:
        """Whether no client has used the server for GRACE_S. If so, no client can join it now."""
        if not try_lock(self.clients_fd, fcntl.LOCK_EX):
            self.idle_since = None
            return False
        now = time.monotonic()
        self.idle_since = self.idle_since or now
        if now - self.idle_since >= GRACE_S:
            return True  # keeps the lock until this process ends: a new client waits for that
        fcntl.flock(self.clients_fd, fcntl.LOCK_UN)
        return False

    def _home_is_gone(self) -> bool:
        """Whether the home was deleted, moved away, or replaced by another one."""
        try:
            found = os.stat(self.home.supervisor_lock)
        except OSError:
            return True
        return not os.path.samestat(found, os.fstat(self.lock_fd))


def answer(text: str) -> None:
    """Replies, once, to the client that started this process and reads standard output."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def log(text: str) -> None:
    """Writes a line to the log, in the format of Postgres."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    print(f"{now} UTC [{os.getpid()}] SUPERVISOR:  {text}", file=sys.stderr, flush=True)


def lock_home(home: PostgresHome) -> int | None:
    """Takes the supervisor's lock for life. None when another supervisor holds it."""
    fd = os.open(home.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + 0.5
    # Retries: clients take the lock for a moment to see whether a supervisor runs.
    while not try_lock(fd, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(fd)
            return None
        time.sleep(0.01)
    return fd


def main(home_path: str) -> int:
    os.umask(0o077)
    # Detached: a client that kills its children must not kill the server of the other clients.
    if os.fork():
        os._exit(0)
    home = PostgresHome(Path(home_path))
    try:
        lock_fd = lock_home(home)
        if lock_fd is None:
            return 0
        Supervisor(home, lock_fd).run()
    except EmbeddedPostgresError as error:
        log(str(error))
        answer(str(error))
        return 1
    except Exception:
        traceback.print_exc()
        answer(f"The supervisor of the embedded Postgres failed; {home.log} says why.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
