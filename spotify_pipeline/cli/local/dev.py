"""`spotify-pipeline dev`: database, Dagster UI and daemon, until Ctrl-C; once per home.

It imports neither SQLAlchemy nor Dagster, because it waits for days.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from spotify_pipeline.cli.local.dagster_processes import (
    STOP_SECONDS,
    Stack,
    StackFailed,
    killed_by,
    running_stack,
)
from spotify_pipeline.settings import ConfigurationError, Settings, load_settings
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.terminal import example

port_of_the_ui = click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the UI (default: from 3000)."
)

NEXT_STEPS = """\
In another terminal, in this folder, with the same SPOTIFY_PIPELINE_ variables if any are set:
  {command} doctor        what is configured, and what is wrong
  {command} connect       connect a Spotify account
  {command} users list    who is kept, and how they are"""


@click.command(epilog=example("spotify-pipeline dev", "spotify-pipeline dev --port 3000"))
@port_of_the_ui
def dev(port: int | None) -> None:
    """Run the database, the Dagster UI and its daemon.

    Creates the schema, or upgrades it. All stop with Ctrl-C, and when one of them dies.
    """
    heed_signals()
    settings = load_settings()
    with alone(settings.home):
        try:
            click.echo("Starting the database and Dagster ...")
            own_login = settings.database_url is None or settings.web_database_url is not None
            with running_stack(
                settings, port, with_page=own_login, prepare=lambda: set_up(settings)
            ) as stack:
                # Else the UI shows the checks of the last hour that it ran, or none.
                stack.launch("health")
                serve(stack)
        finally:
            embedded.leave(settings.home)


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Holds the home, which is made if it is missing. Raises ConfigurationError.

    Two would share logs, and two demos move the same listeners.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.fdopen(os.open(home / "running.lock", os.O_WRONLY | os.O_CREAT, 0o600), "w")
    except OSError as error:
        raise ConfigurationError(
            f"{home} cannot be written ({error.strerror}): set SPOTIFY_PIPELINE_HOME to a "
            "directory of your own."
        ) from None
    # The kernel lets go of it when this process ends, however it ends.
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"`spotify-pipeline dev` or `demo` is running in {home} already: stop it, or give "
                "this one a home of its own with SPOTIFY_PIPELINE_HOME."
            ) from None
        yield


def set_up(settings: Settings) -> None:
    """Runs `init-db` in a process of its own; exits as it does when it fails.

    Raises StackFailed when it was killed.
    """
    if settings.database_url is None:
        # The server would stop after init-db, if that were its only client.
        embedded.join(settings.home)
    # -P: modules in the folder that the caller runs in must not hide ours.
    command = [sys.executable, "-P", "-m", "spotify_pipeline.cli.main", "init-db"]
    # A session of its own: Ctrl-C is for `dev`, which stops it and says so once.
    done = subprocess.run(command, stdout=subprocess.DEVNULL, start_new_session=True, check=False)
    if done.returncode < 0:
        raise StackFailed(f"init-db {killed_by(-done.returncode)}. Start again.")
    if done.returncode:
        sys.exit(done.returncode)


def heed_signals() -> None:
    """End in order at SIGTERM as at Ctrl-C, also where a script's `dev &` ignores SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def serve(stack: Stack) -> None:
    """Keep the stack running until Ctrl-C or SIGTERM. Raises StackFailed when a process dies."""
    try:
        if stack.page_url:
            click.echo(f"The page that users see is at {stack.page_url}.")
        click.echo(f"The Dagster UI is at {stack.url} (Ctrl-C stops everything).")
        click.echo(NEXT_STEPS.format(command=sys.argv[0]))
        while True:
            stack.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        click.echo(f"Stopping Dagster and the database, which takes up to {STOP_SECONDS + 2} s ...")
