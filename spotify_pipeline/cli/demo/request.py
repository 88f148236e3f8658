"""The demo's press on Sync: a request as an app makes it, and a second one within the cooldown."""

import time
from collections.abc import Sequence

import click
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DatabaseError

from spotify_pipeline.cli.local.dagster_processes import Stack
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.storage import tables as t

SECONDS = 120


def press_sync(engine: Engine, stack: Stack, user_ids: Sequence[str]) -> None:
    """One request that the running sensor picks up, and one that the cooldown, if any, refuses.

    Raises WorkFailed when it goes otherwise.
    """
    for user_id in user_ids:
        try:
            request_id = _request(engine, user_id)
        except DatabaseError as refusal:
            click.echo(f"{user_id} pressed Sync, refused: {_sentence(refusal)}")
            continue
        click.echo(f"{user_id} pressed Sync; the running sensor takes it from here ...")
        started = time.monotonic()
        status = _await_end(engine, stack, request_id)
        if status != "succeeded":
            raise WorkFailed(f"The request of {user_id} {status}: see {stack.url}/runs")
        click.echo(f"  {status} after {time.monotonic() - started:.1f} s")
        has_to_wait = _has_to_wait(engine, user_id)
        try:
            request_id = _request(engine, user_id)
        except DatabaseError as refusal:
            click.echo(f"  pressed again at once, refused: {_sentence(refusal)}")
            return
        if has_to_wait:
            raise WorkFailed("A second request was accepted within the cooldown.")
        click.echo("  pressed again, accepted: the setting request_cooldown asks for no wait")
        _await_end(engine, stack, request_id)
        return
    click.echo("Everybody has synced within the cooldown; press Sync again later.")


def _has_to_wait(engine: Engine, user_id: str) -> bool:
    """What sync_status says to the app."""
    with engine.connect() as conn:
        next_allowed_at = conn.scalar(
            text("SELECT next_allowed_at FROM spotify_pipeline.sync_status WHERE user_id = :u"),
            {"u": user_id},
        )
    return next_allowed_at is not None


def _request(engine: Engine, user_id: str) -> int:
    with engine.begin() as conn:
        row = conn.execute(
            text("SELECT request_id FROM spotify_pipeline.request_sync(:user_id)"),
            {"user_id": user_id},
        ).one()
        return int(row.request_id)


def _await_end(engine: Engine, stack: Stack, request_id: int) -> str:
    r = t.sync_requests

    def status() -> str:
        with engine.connect() as conn:
            return str(conn.scalar(select(r.c.status).where(r.c.id == request_id)))

    stack.wait(SECONDS, lambda: status() not in ("queued", "running"), "The request")
    return status()


def _sentence(error: DatabaseError) -> str:
    """The database's own words, without SQL."""
    return str(error.orig).splitlines()[0]
