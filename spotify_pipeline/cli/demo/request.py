"""The demo requests a sync as an app does, and requests a second one within the cooldown."""

import time
from collections.abc import Sequence

import click

from spotify_pipeline.app import Refused, request_sync, sync_status
from spotify_pipeline.cli.local.dagster_processes import Stack
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.storage.postgres.types import Engine

SECONDS = 120


def press_sync(engine: Engine, stack: Stack, user_ids: Sequence[str]) -> None:
    """Request a sync that the running sensor picks up, and one that the cooldown, if any, refuses.

    The first user outside the cooldown is taken. Raises WorkFailed when it goes otherwise.
    """
    for user_id in user_ids:
        try:
            _request(engine, user_id)
        except Refused as refusal:
            click.echo(f"{user_id} pressed Sync, refused: {refusal.message}")
            continue
        click.echo(f"{user_id} pressed Sync; the running sensor takes it from here ...")
        started = time.monotonic()
        status = _await_end(engine, stack, user_id)
        if status != "succeeded":
            raise WorkFailed(f"The request of {user_id} {status}: see {stack.url}/runs")
        click.echo(f"  {status} after {time.monotonic() - started:.1f} s")
        with engine.connect() as conn:
            in_cooldown = sync_status(conn, user_id).next_allowed_at is not None
        try:
            _request(engine, user_id)
        except Refused as refusal:
            click.echo(f"  pressed again at once, refused: {refusal.message}")
            return
        if in_cooldown:
            raise WorkFailed("A second request was accepted within the cooldown.")
        click.echo("  pressed again, accepted: the setting request_cooldown asks for no wait")
        _await_end(engine, stack, user_id)
        return
    click.echo("All users have synced within the cooldown; press Sync again later.")


def _request(engine: Engine, user_id: str) -> None:
    with engine.begin() as conn:
        request_sync(conn, user_id)


def _await_end(engine: Engine, stack: Stack, user_id: str) -> str:
    """The final status of the user's newest request."""

    def status() -> str:
        with engine.connect() as conn:
            return str(sync_status(conn, user_id).request_status)

    stack.wait(SECONDS, lambda: status() not in ("queued", "running"), "The request")
    return status()
