"""`spotify-pipeline serve` and `web`: one process of a production set, or the web page.

`dev` runs them as its children; here a supervisor starts, watches and restarts each.
"""

import os
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from secrets import token_urlsafe
from typing import NoReturn

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.defs.instance import LOCATION, PROCESSES, dagster_home
from spotify_pipeline.defs.instance.processes.warm_process import NOT_FROM_HERE, check_tmpdir
from spotify_pipeline.errors import UsageError
from spotify_pipeline.home import UMASK, kept_secret, write_private
from spotify_pipeline.settings import ConfigurationError, Settings, load_settings
from spotify_pipeline.storage.postgres.database import leave_database
from spotify_pipeline.storage.postgres.roles import web_url
from spotify_pipeline.terminal import example

CODE_SERVER = "127.0.0.1:4266"
PORT = 8000
SECRET_FILE = "web-secret"  # noqa: S105 (a file name)

_host = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
_port = partial(
    click.option,
    "--port",
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port to listen on.",
)
_code_server = click.option(
    "--code-server",
    default=CODE_SERVER,
    show_default=True,
    metavar="HOST:PORT",
    help="Where the code server listens.",
)
_locations = click.option(
    "--location",
    "locations",
    multiple=True,
    metavar="NAME=HOST:PORT",
    help="Another code location, such as one downstream; may be repeated.",
)


@click.group(epilog=example("spotify-pipeline serve daemon --help"))
def serve() -> None:
    """Run one process of a production set, in the foreground."""


@serve.command("code-server", epilog=example("spotify-pipeline serve code-server --port 4266"))
@_host
@_port(default=4266)
def code_server(host: str, port: int) -> None:
    """Serve our definitions over gRPC, and run the jobs. Start it first: it makes Dagster's tables.

    The port has no sign-in: all who reach it can run jobs.
    """
    from spotify_pipeline.defs.in_process import make_tables

    settings = load_settings()
    check_tmpdir()
    _check_port(host, port)
    make_tables(settings)
    where = ("--host", host, "--port", str(port), "--location-name", LOCATION)
    _become(settings, "code_server", "-m", "spotify_pipeline.definitions", *where)


@serve.command(epilog=example("spotify-pipeline serve webserver --code-server code-server:4266"))
@_host
@_port(default=3000)
@_code_server
@_locations
def webserver(host: str, port: int, code_server: str, locations: Sequence[str]) -> None:
    """Serve the Dagster UI. It has no sign-in: put a proxy with one in front of it."""
    settings = load_settings()
    _check_port(host, port)
    workspace = _workspace(settings, "webserver", code_server, locations)
    _become(settings, "webserver", "-h", host, "-p", str(port), "-w", workspace)


@serve.command(epilog=example("spotify-pipeline serve daemon"))
@_code_server
@_locations
def daemon(code_server: str, locations: Sequence[str]) -> None:
    """Run Dagster's daemon: schedules, sensors, the queue of runs. One at a time."""
    settings = load_settings()
    workspace = _workspace(settings, "daemon", code_server, locations)
    _become(settings, "daemon", "run", "-w", workspace)


def _workspace(settings: Settings, process: str, code_server: str, locations: Sequence[str]) -> str:
    """The file that says where code is served: ours, then NAME=HOST:PORT of others."""
    lines = ["load_from:"]
    for option, location in [
        ("--code-server", f"{LOCATION}={code_server}"),
        *(("--location", location) for location in locations),
    ]:
        found = re.fullmatch(r"(\w+)=([^\s']+):(\d+)", location)
        if found is None:
            example = "127.0.0.1:4266" if option == "--code-server" else "downstream=10.0.0.7:4267"
            raise ConfigurationError(f"{option} cannot be read: write it as {example}.")
        name, host, port = found.groups()
        lines.append(f"  - grpc_server: {{host: '{host}', port: {port}, location_name: {name}}}")
    path = dagster_home(settings) / f"workspace-{process}.yaml"
    write_private(path, "\n".join([*lines, ""]))
    return str(path)


def _check_port(host: str, port: int) -> None:
    """Raises UsageError when this address cannot be listened on."""
    try:
        # Of IPv6 with or without brackets.
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        family, *_, address = found[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port."
        ) from None


def _become(settings: Settings, process: str, *arguments: str) -> NoReturn:
    """Replace this process by one of Dagster's, so that signals reach it."""
    os.umask(UMASK)
    os.environ |= {"DAGSTER_HOME": str(dagster_home(settings)), "PYTHONUNBUFFERED": "1"}
    os.environ |= NOT_FROM_HERE
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.stdout.flush()
    command = [sys.executable, "-m", f"{PROCESSES}.{process}", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 the arguments are ours


@click.command(
    epilog=example("spotify-pipeline web", "spotify-pipeline web --port 8080 --host 0.0.0.0")
)
@click.option(
    "--port",
    default=PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Register http://127.0.0.1:PORT/callback, with this very port, among the app's redirect "
    "URIs in the Spotify developer dashboard.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Others than loopback need a proxy with https in front, and "
    "SPOTIFY_PIPELINE_WEB_URL.",
)
def web(port: int, host: str) -> None:
    """Serve the web page, where users sign in with Spotify and see what is kept.

    It needs `spotify-pipeline init-db` once, and a running pipeline (`spotify-pipeline dev`) for
    its Sync button.
    """
    from spotify_pipeline.web.application import serve
    from spotify_pipeline.web.site import Config

    settings = load_settings()
    if host not in ("127.0.0.1", "::1", "localhost") and settings.web_url is None:
        raise UsageError(
            f"On {host} others reach the page: set SPOTIFY_PIPELINE_WEB_URL to the https address "
            "under which your proxy serves it."
        )
    _check_port(host, port)
    with ExitStack() as at_the_end:
        at_the_end.callback(leave_database, settings)
        # The one thing that is done with the pipeline's rights: is the schema there?
        if settings.database_url is None and settings.web_database_url is None:
            with opened_database(settings):
                pass
        secrets = (settings.spotify_client_secret, settings.revalidate_secret)
        client_secret, hook_secret = (s.get_secret_value() if s else None for s in secrets)
        config = Config(
            url=settings.web_url or f"http://127.0.0.1:{port}",
            database_url=web_url(settings),
            secret=_secret(settings),
            client_id=settings.spotify_client_id,
            client_secret=client_secret,
            accounts_url=settings.accounts_url,
            api_url=settings.api_url,
            hook_secret=hook_secret,
            accounts=frozenset(
                account.strip()
                for account in (settings.web_accounts or "").split(",")
                if account.strip()
            ),
            keep_plays_days=settings.keep_plays_days,
        )
        serve(
            config,
            host,
            port,
            lambda: click.echo(f"The web page is at {config.url} (Ctrl-C stops it)."),
        )


def _secret(settings: Settings) -> str:
    if settings.web_secret is not None:
        return settings.web_secret.get_secret_value()
    return kept_secret(settings.home, SECRET_FILE, token_urlsafe(48))
