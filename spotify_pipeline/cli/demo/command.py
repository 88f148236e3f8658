"""`spotify-pipeline demo`: listeners live ten days and import half a year of history.

Of seven or more, the seventh connects only at the end, and then the sixth has to reconnect.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import click

from spotify_pipeline.app import Refused, register_user, request_sync, sync_status
from spotify_pipeline.cli.demo.history import HALF_A_YEAR, import_exports
from spotify_pipeline.cli.demo.results import show_addresses, show_listeners, show_recount
from spotify_pipeline.cli.local.dagster_processes import Stack, running_stack
from spotify_pipeline.cli.local.dev import alone, heed_signals, port_of_the_ui, serve, set_up
from spotify_pipeline.defs.in_process import (
    check_health,
    opened_instance,
    report_import,
    report_pictures,
    sync_user,
)
from spotify_pipeline.domain.import_receipt import Receipt
from spotify_pipeline.domain.outcome import DAILY_LISTENING, RECENTLY_PLAYED, STEPS
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.settings import ConfigurationError, Settings, load_settings
from spotify_pipeline.simulator.control import ListenerInfo, Simulator
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage.listening.history import PlayKey, last_fetched_at, stored_plays
from spotify_pipeline.storage.postgres.database import leave_database
from spotify_pipeline.storage.postgres.types import Engine
from spotify_pipeline.storage.users.connection import store_connection
from spotify_pipeline.storage.users.queries import ELIGIBLE, user_statuses
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline.terminal import example, progress

LIFE = timedelta(days=10)
STEP = timedelta(hours=3)
SEED = 1
REQUEST_SECONDS = 120
WITH_NEW_AND_LEAVING = 7


@click.command(
    epilog=example("spotify-pipeline demo --once", "spotify-pipeline demo --users 20 --port 3100")
)
@click.option("--once", is_flag=True, help="Stop after the tables instead of serving the UI.")
@click.option(
    "--users",
    default=7,
    show_default=True,
    type=click.IntRange(1, 200),
    help="How many synthetic listeners.",
)
@port_of_the_ui
def demo(once: bool, users: int, port: int | None) -> None:
    """Let synthetic listeners live ten days, and show them in Dagster.

    They also import half a year of history from their exports.

    Uses the embedded database in SPOTIFY_PIPELINE_HOME and a simulator of Spotify on this machine;
    nothing leaves it. Run again, it continues from the kept data.
    """
    heed_signals()
    with contextlib.ExitStack() as running:
        # The demo never touches a database of one's own, whatever the environment says.
        for name in ("SPOTIFY_PIPELINE_DATABASE_URL", "DAGSTER_PG_URL"):
            os.environ.pop(name, None)
        running.enter_context(alone(load_settings().home))
        click.echo("Starting the embedded Postgres and a simulated Spotify ...")
        simulator = running.enter_context(running_simulator(listeners=users, seed=SEED))
        os.environ.update(simulator.environment)
        settings = load_settings()
        running.callback(leave_database, settings)
        set_up(settings)
        listeners = simulator.listeners()
        clock = Clock(simulator)
        pipeline = running.enter_context(open_pipeline(settings, clock.now))
        leaving, new = listeners[5:7] if len(listeners) >= WITH_NEW_AND_LEAVING else (None, None)
        known = _known(pipeline, listeners)
        settled = [listener for listener in listeners if listener is not new]
        kept = _introduce(pipeline, known, settled)
        instants = _instants(pipeline.engine)
        clock.set(instants[0])
        lived_since = instants[0] - HALF_A_YEAR
        exports = {
            listener.user_id: simulator.export(listener.user_id, since=lived_since)
            for listener in settled
        }
        _live(pipeline, clock, instants, listeners if new and new.user_id in known else settled)
        # Spotify takes days to send an export; the order does not matter.
        receipts = import_exports(pipeline, exports)
        kept |= _introduce(pipeline, known, [new] if new else [])
        _sync_through_dagster(settings, listeners, receipts)
        if leaving:
            simulator.revoke(leaving.user_id)
            _sync_through_dagster(settings, [leaving], {})
        stack = running.enter_context(running_stack(settings, port, with_page=not once))
        press_sync(pipeline.engine, stack, [listener.user_id for listener in listeners])
        show_listeners(pipeline.engine, listeners)
        show_recount(pipeline.engine, simulator, listeners, kept, exports, lived_since)
        if not once:
            with opened_instance(settings) as instance:
                report_pictures(instance, pipeline, [listener.user_id for listener in listeners])
            show_addresses(stack.url, listeners[0], leaving)
            serve(stack)


class Clock:
    """The demo's time: moved with the simulator's, then the real one."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._fixed: datetime | None = None

    def now(self) -> datetime:
        """The simulated instant, or the real one."""
        return self._fixed or datetime.now(UTC)

    def set(self, instant: datetime | None) -> None:
        """Stop at an instant; None: run with the real time."""
        self._fixed = instant
        self._simulator.set_clock(instant)


def _known(pipeline: Pipeline, listeners: Sequence[ListenerInfo]) -> dict[str, str]:
    """The connection of each user of an earlier demo. Raises ConfigurationError for others."""
    with pipeline.engine.connect() as conn:
        known = {status.user_id: status.connection for status in user_statuses(conn)}
    if strangers := known.keys() - {listener.user_id for listener in listeners}:
        raise ConfigurationError(
            f"{pipeline.settings.home} holds {len(strangers)} other listeners. Give the demo "
            "a home of its own: SPOTIFY_PIPELINE_HOME=.spotify_pipeline_demo make demo"
        )
    return known


def _introduce(
    pipeline: Pipeline, known: Mapping[str, str], listeners: Sequence[ListenerInfo]
) -> dict[str, set[PlayKey]]:
    """Register and connect who is new or has lost the connection; return what is stored."""
    with pipeline.engine.begin() as conn:
        for listener in listeners:
            if known.get(listener.user_id) in ELIGIBLE:
                continue
            register_user(conn, listener.user_id, listener.timezone, listener.display_name)
            store_connection(
                conn,
                pipeline.keyring,
                listener.user_id,
                listener.refresh_token,
                client_id=pipeline.settings.spotify_client_id or "",
            )
        return {listener.user_id: stored_plays(conn, listener.user_id) for listener in listeners}


def _live(
    pipeline: Pipeline,
    clock: Clock,
    instants: Sequence[datetime],
    listeners: Sequence[ListenerInfo],
) -> None:
    """Collect at these instants: every three hours of the last ten days, up to now."""
    with progress("Living and collecting every 3 hours", len(instants)) as advance:
        for number, instant in enumerate(instants):
            clock.set(instant)
            # Top lists and personality change slowly: once a day, as at night.
            outcomes = sync_users(
                pipeline,
                [listener.user_id for listener in listeners],
                STEPS if number % 8 == 0 else (RECENTLY_PLAYED, DAILY_LISTENING),
            )
            for outcome in outcomes:
                if outcome.failure:
                    raise WorkFailed(f"{outcome.user_id}: {outcome.failure.message}")
            advance(number + 1)
    clock.set(None)


def _instants(engine: Engine) -> list[datetime]:
    """Every third hour from the last collection of the last demo, at most ten days ago, to now."""
    now = datetime.now(UTC)
    with engine.connect() as conn:
        last = last_fetched_at(conn)
    instants = [now]
    while instants[-1] - STEP > max(last or now - LIFE, now - LIFE):
        instants.append(instants[-1] - STEP)
    return instants[::-1]


def _sync_through_dagster(
    settings: Settings, listeners: Sequence[ListenerInfo], receipts: Mapping[str, Receipt]
) -> None:
    """The imports, then the newest state of every listener: the job sync_user on each partition.

    Then the checks.
    """
    with (
        progress("Materializing partitions in Dagster", len(listeners) + 1) as advance,
        opened_instance(settings) as instance,
    ):
        for user_id, receipt in receipts.items():
            report_import(instance, user_id, receipt)
        for number, listener in enumerate(listeners, 1):
            if not sync_user(instance, listener.user_id).success:
                raise WorkFailed(f"The Dagster run of {listener.user_id} failed.")
            advance(number)
        check_health(instance)
        advance(len(listeners) + 1)


def press_sync(engine: Engine, stack: Stack, user_ids: Sequence[str]) -> None:
    """Request a sync that the running sensor picks up, and one that the cooldown, if any, refuses.

    The first user outside the cooldown is taken. Raises WorkFailed when it goes otherwise.
    """
    for user_id in user_ids:
        if refusal := _refused(engine, user_id):
            click.echo(f"{user_id} pressed Sync, refused: {refusal}")
            continue
        click.echo(f"{user_id} pressed Sync; the running sensor takes it from here ...")
        started = time.monotonic()
        status = _await_end(engine, stack, user_id)
        if status != "succeeded":
            raise WorkFailed(f"The request of {user_id} {status}: see {stack.url}/runs")
        click.echo(f"  {status} after {time.monotonic() - started:.1f} s")
        with engine.connect() as conn:
            in_cooldown = sync_status(conn, user_id).next_allowed_at is not None
        if refusal := _refused(engine, user_id):
            click.echo(f"  pressed again at once, refused: {refusal}")
            return
        if in_cooldown:
            raise WorkFailed("A second request was accepted within the cooldown.")
        click.echo("  pressed again, accepted: the setting request_cooldown asks for no wait")
        _await_end(engine, stack, user_id)
        return
    click.echo("All users have synced within the cooldown; press Sync again later.")


def _refused(engine: Engine, user_id: str) -> str | None:
    """Requests a sync; returns why it was refused, or None."""
    try:
        with engine.begin() as conn:
            request_sync(conn, user_id)
    except Refused as refusal:
        return refusal.message
    return None


def _await_end(engine: Engine, stack: Stack, user_id: str) -> str:
    """The final status of the user's newest request."""

    def status() -> str:
        with engine.connect() as conn:
            return str(sync_status(conn, user_id).request_status)

    stack.wait(REQUEST_SECONDS, lambda: status() not in ("queued", "running"), "The request")
    return status()
