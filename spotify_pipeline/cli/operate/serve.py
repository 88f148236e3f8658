"""`spotify-pipeline serve`: one process of a production set, for containers and systemd.

`dev` runs three of them as its children; here a supervisor starts, watches and restarts each.
"""

import os
import sys
from typing import NoReturn

import click

from spotify_pipeline.defs.running import LOCATION, PROCESSES, dagster_home, opened_instance
from spotify_pipeline.home import UMASK, write_private
from spotify_pipeline.settings import ConfigurationError, Settings, load_settings
from spotify_pipeline.terminal import example

CODE_SERVER = "127.0.0.1:4266"

_host = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
_code_server = click.option(
    "--code-server",
    default=CODE_SERVER,
    show_default=True,
    metavar="HOST:PORT",
    help="Where the code server listens.",
)


@click.group(epilog=example("spotify-pipeline serve daemon --help"))
def serve() -> None:
    """Run one process of a production set, in the foreground."""


@serve.command("code-server", epilog=example("spotify-pipeline serve code-server --port 4266"))
@_host
@click.option("--port", default=4266, show_default=True, help="Port to listen on.")
def code_server(host: str, port: int) -> None:
    """Serve our definitions over gRPC, and run the jobs. Start it first: it makes Dagster's tables.

    The port has no sign-in: all who reach it can run jobs.
    """
    settings = load_settings()
    with opened_instance(settings):
        pass
    where = ("--host", host, "--port", str(port), "--location-name", LOCATION)
    _become(settings, "code_server", "-m", "spotify_pipeline.definitions", *where)


@serve.command(epilog=example("spotify-pipeline serve webserver --code-server code-server:4266"))
@_host
@click.option("--port", default=3000, show_default=True, help="Port to listen on.")
@_code_server
def webserver(host: str, port: int, code_server: str) -> None:
    """Serve the Dagster UI. It has no sign-in: put a proxy with one in front of it."""
    settings = load_settings()
    where = ("-h", host, "-p", str(port))
    _become(settings, "webserver", *where, "-w", _workspace(settings, "webserver", code_server))


@serve.command(epilog=example("spotify-pipeline serve daemon"))
@_code_server
def daemon(code_server: str) -> None:
    """Run Dagster's daemon: schedules, sensors, the queue of runs. One at a time."""
    settings = load_settings()
    _become(settings, "daemon", "run", "-w", _workspace(settings, "daemon", code_server))


def _workspace(settings: Settings, process: str, code_server: str) -> str:
    """The file that says where our code is served."""
    host, _, port = code_server.rpartition(":")
    if not (host and port.isdigit()):
        raise ConfigurationError("--code-server is no HOST:PORT, such as 127.0.0.1:4266.")
    path = dagster_home(settings) / f"workspace-{process}.yaml"
    server = f"{{host: {host}, port: {port}, location_name: {LOCATION}}}"
    write_private(path, f"load_from:\n  - grpc_server: {server}\n")
    return str(path)


def _become(settings: Settings, process: str, *arguments: str) -> NoReturn:
    """Replace this process by one of Dagster's, so that signals reach it."""
    os.umask(UMASK)
    os.environ |= {"DAGSTER_HOME": str(dagster_home(settings)), "PYTHONUNBUFFERED": "1"}
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.stdout.flush()
    command = [sys.executable, "-m", f"{PROCESSES}.{process}", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 the arguments are ours
