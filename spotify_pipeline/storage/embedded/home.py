"""The files and locks of the embedded Postgres under HOME/postgres.

postgres/
  supervisor.lock   flock, exclusive: held by the one supervisor of this home
  clients.lock      flock, shared: held by every process that uses the database
  port              the port, kept so that URLs stay stable
  password          the superuser's password, 0600, made once
  server.log        output of Postgres and the supervisor; server.log.1 is the log before it
  data/             the data directory
"""

import fcntl
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from spotify_pipeline.errors import PipelineError

SUPERUSER = "spotify_pipeline"
LOG_BYTES = 10_000_000
FULL_BYTES = 16 << 20


class EmbeddedPostgresError(PipelineError):
    """The embedded Postgres cannot be used; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class PostgresHome:
    """The folder HOME/postgres and the files in it. `home` is absolute."""

    home: Path

    @property
    def folder(self) -> Path:
        return self.home / "postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def supervisor_lock(self) -> Path:
        return self.folder / "supervisor.lock"

    @property
    def clients_lock(self) -> Path:
        return self.folder / "clients.lock"

    def make(self) -> None:
        """Makes the folder if it is missing, closed to other users.

        Raises EmbeddedPostgresError when it cannot be made or written.
        """
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            owner = self.folder.stat().st_uid
            os.close(os.open(self.clients_lock, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self.folder} cannot be written ({error.strerror}): "
                "set SPOTIFY_PIPELINE_HOME to a directory of your own."
            ) from None
        if owner != os.geteuid():
            # Files made by root would lock the owner out of the database.
            raise EmbeddedPostgresError(
                f"{self.folder} belongs to user id {owner} and this process runs as "
                f"{os.geteuid()}: run it as the owner, or set SPOTIFY_PIPELINE_HOME to another "
                "directory."
            )

    def disk_is_full(self) -> bool:
        """Whether there is no room for one more file of the write-ahead log (16 MB)."""
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        return shutil.disk_usage(existing).free < FULL_BYTES

    def refuse_full_disk(self) -> None:
        """Raises EmbeddedPostgresError if the disk is full: Postgres often names a later effect."""
        if self.disk_is_full():
            raise EmbeddedPostgresError(
                f"The disk of {self.folder} is full: make room and try again, or set "
                "SPOTIFY_PIPELINE_HOME to a directory on another disk."
            )

    # -- locks ---------------------------------------------------------------------------------

    def is_supervised(self) -> bool:
        """Whether a supervisor of this home runs. Takes its lock, shared, for a moment."""
        try:
            fd = os.open(self.supervisor_lock, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    # -- small files ---------------------------------------------------------------------------

    def password(self) -> str | None:
        """The superuser's password; None before the first start."""
        try:
            return (self.folder / "password").read_text().strip()
        except FileNotFoundError:
            return None

    def make_password(self) -> str:
        password = secrets.token_urlsafe(24)
        self.write("password", password)
        return password

    def write(self, name: str, text: str) -> None:
        """Replaces a file atomically and durably: a reader sees the old one or the new one."""
        draft = self.folder / f"{name}.{os.getpid()}.tmp"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.folder / name)

    # -- the log -------------------------------------------------------------------------------

    def open_log(self) -> IO[bytes]:
        """The server's log, to append to. Raises EmbeddedPostgresError when it cannot be."""
        try:
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self.log} cannot be written ({error.strerror}): "
                "was SPOTIFY_PIPELINE_HOME deleted or moved?"
            ) from None
        return os.fdopen(fd, "wb")

    def log_tail(self, lines: int = 5) -> str:
        """The last lines of the server's log. The server is set up so that it logs no values."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 4000))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def rotate_log(self) -> None:
        """Keeps the log and one before it, LOG_BYTES each.

        The file is copied and truncated, not renamed: Postgres holds it open and appends.
        """
        try:
            if self.log.stat().st_size > LOG_BYTES:
                (self.folder / "server.log.1").write_bytes(self.log.read_bytes())
                os.truncate(self.log, 0)
        except FileNotFoundError:
            return


def try_lock(fd: int, kind: int) -> bool:
    """Takes a flock without waiting. False when another process holds a conflicting one.

    Raises EmbeddedPostgresError on file systems without locks.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise EmbeddedPostgresError(
            f"The file system of SPOTIFY_PIPELINE_HOME has no file locks ({error.strerror}): "
            "set SPOTIFY_PIPELINE_HOME to a directory on a local disk."
        ) from None
    return True
