"""`spotify-pipeline dev`: database, Dagster UI and daemon, until Ctrl-C."""

import signal
import time

import click
from rich.console import Console

from spotify_pipeline.cli.stack import Stack, running_stack
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.database import leave_database, open_engine
from spotify_pipeline.storage.roles import give_rights
from spotify_pipeline.storage.schema import init_db


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the UI (default: from 3000).")
def dev(port: int | None) -> None:
    """Run the database, Dagster's UI and its daemon; stop all when one dies.

    Example: spotify-pipeline dev --port 3000
    """
    console = Console()
    settings = load_settings()
    engine = open_engine(settings)
    init_db(engine)
    give_rights(engine, settings.app_role)
    engine.dispose()
    console.print("Starting Dagster ...")
    try:
        with running_stack(settings, port) as stack:
            serve(console, stack)
    finally:
        leave_database(settings)


def serve(console: Console, stack: Stack) -> None:
    """Keep the stack running until Ctrl-C or SIGTERM. Raises StackFailed when a process dies."""
    console.print(f"The Dagster UI is at {stack.url} (Ctrl-C stops everything).")
    # Both: a shell that starts us in the background lets SIGINT be ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        while True:
            stack.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("Stopping ...")
