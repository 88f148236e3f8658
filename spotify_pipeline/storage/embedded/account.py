"""The account that Postgres runs as: ours, or as root another one, because Postgres refuses root.

That account must reach the programs and the home. A clone under /root or in a `mktemp -d`
directory is behind a directory of mode 0700, and we never change the mode of a directory outside
the home. So we look for the least that works, by trying:

1. the account as it is (the home itself becomes 0711);
2. with the capability to search and read any directory (CAP_DAC_READ_SEARCH);
3. with CAP_DAC_OVERRIDE, which containers grant to root where they do not grant the second.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from spotify_pipeline.storage.embedded.home import EmbeddedPostgresError, PostgresHome

# Nothing of the caller's environment: PGOPTIONS and the like would change the server, and secrets
# have no business in a process that lives on. C, so that messages can be recognised.
ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
CAPABILITIES = (None, "dac_read_search", "dac_override")


@dataclass(frozen=True)
class Account:
    """Starts programs as a user of the system. `user` None: as ourselves."""

    user: pwd.struct_passwd | None = None
    capability: str | None = None

    def popen(
        self,
        command: Sequence[str | Path],
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.STDOUT,
    ) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {}
        if self.user and self.capability:
            command = [*self._setpriv(self.user), f"--ambient-caps=+{self.capability}", *command]
        elif self.user:
            uid, gid = self.user.pw_uid, self.user.pw_gid
            options = {"user": uid, "group": gid, "extra_groups": []}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=ENVIRONMENT,
            cwd="/",
            **options,
        )

    def _setpriv(self, user: pwd.struct_passwd) -> list[str]:
        setpriv = shutil.which("setpriv")
        if not setpriv:
            raise FileNotFoundError("setpriv")
        return [
            setpriv,
            f"--reuid={user.pw_uid}",
            f"--regid={user.pw_gid}",
            "--clear-groups",
            f"--inh-caps=+{self.capability}",
            # Else access(2), by which initdb looks for its sister programs, drops the capability.
            "--securebits=+no_setuid_fixup",
        ]

    def run(self, command: Sequence[str | Path]) -> tuple[int, str]:
        """Exit code and output of a program."""
        process = self.popen(command)
        output, _ = process.communicate()
        return process.returncode, output.decode(errors="replace").strip()

    def own(self, path: Path) -> None:
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def can_reach(self, folder: Path, program: Path) -> bool:
        """Whether it can enter the folder and start the program."""
        probe = 'cd -- "$1" && exec "$2" --version'
        try:
            code, _ = self.run(["/bin/sh", "-c", probe, "sh", folder, program])
        except OSError:
            return False
        return code == 0


def choose_account(home: PostgresHome, program: Path) -> Account:
    """The account to run Postgres as. Opens the home to it (0711) if that is enough.

    Raises EmbeddedPostgresError when we are root and no account can reach home and program.
    """
    if os.geteuid() != 0:
        _check_known(os.geteuid())
        return Account()
    user = _unprivileged_user(home)
    home.folder.chmod(0o711)
    if Account(user).can_reach(home.home.parent, program):
        home.home.chmod(home.home.stat().st_mode | 0o011)
    for capability in CAPABILITIES:
        account = Account(user, capability)
        if account.can_reach(home.folder, program):
            return account
    unreachable = program if Account(user).can_reach(home.folder, Path("/bin/true")) else home.home
    remedy = (
        "install spotify_pipeline where everyone can read it, such as /opt"
        if unreachable == program
        else "set SPOTIFY_PIPELINE_HOME to a directory everyone can traverse, "
        "such as /var/lib/spotify_pipeline"
    )
    raise EmbeddedPostgresError(
        f"Postgres refuses to run as root, and the account {user.pw_name} that it runs as instead "
        f"cannot reach {unreachable}: {remedy}, or run as an ordinary user."
    )


def _check_known(uid: int) -> None:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedPostgresError(
            f"Postgres needs an account in /etc/passwd and user id {uid} has none: make one, or "
            "set SPOTIFY_PIPELINE_DATABASE_URL to a PostgreSQL 15 or newer."
        ) from None


def _unprivileged_user(home: PostgresHome) -> pwd.struct_passwd:
    """The owner of the data if there is some, else postgres, else nobody."""
    if home.data.exists():
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(home.data.stat().st_uid)
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError(
        "Postgres refuses to run as root, and there is no account named postgres or nobody to run "
        "it as: run as an ordinary user, or make one of these accounts."
    )
