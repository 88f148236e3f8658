"""`spotify-pipeline demo`: synthetic listeners live ten days, then Dagster takes over."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as View
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DatabaseError

from spotify_pipeline.cli.dev import serve
from spotify_pipeline.cli.recount import PlayKey, recount, stored_plays
from spotify_pipeline.cli.stack import Stack, running_stack
from spotify_pipeline.defs.running import opened_instance, sync_one
from spotify_pipeline.domain.scopes import SCOPES
from spotify_pipeline.domain.sealing import seal
from spotify_pipeline.domain.steps import DAILY_LISTENING, RECENTLY_PLAYED, STEPS
from spotify_pipeline.settings import ConfigurationError, Settings, load_settings
from spotify_pipeline.simulator.control import ListenerInfo, Simulator
from spotify_pipeline.simulator.process import running_simulator
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.accounts import connect_user, register_user, user_statuses
from spotify_pipeline.storage.database import leave_database, open_engine
from spotify_pipeline.storage.people import ELIGIBLE
from spotify_pipeline.storage.roles import give_rights
from spotify_pipeline.storage.schema import init_db
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline
from spotify_pipeline.sync.users import sync_users

LIFE = timedelta(days=10)
STEP = timedelta(hours=3)
SEED = 1
REQUEST_SECONDS = 120


class DemoFailed(click.ClickException):
    """Something the demo promises did not happen."""


@click.command()
@click.option("--once", is_flag=True, help="Stop after the tables instead of serving the UI.")
@click.option("--users", default=5, show_default=True, type=click.IntRange(1, 200))
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the UI (default: from 3000).")
def demo(once: bool, users: int, port: int | None) -> None:
    """Let synthetic listeners live ten days, sync them through Dagster, and show the UI.

    Uses the embedded database in SPOTIFY_PIPELINE_HOME and a simulator of Spotify on this machine;
    nothing leaves it. Run again, it continues from the kept data.

    Example: spotify-pipeline demo --once
    """
    console = Console()
    with contextlib.ExitStack() as running:
        # The demo never touches a database of one's own, whatever the environment says.
        for name in ("SPOTIFY_PIPELINE_DATABASE_URL", "DAGSTER_PG_URL"):
            os.environ.pop(name, None)
        running.enter_context(_alone(load_settings().home))
        console.print("Starting the embedded Postgres and a simulated Spotify ...")
        simulator = running.enter_context(running_simulator(listeners=users, seed=SEED))
        os.environ.update(simulator.environment)
        settings = load_settings()
        running.callback(leave_database, settings)
        listeners = simulator.listeners()
        clock = Clock(simulator)
        engine = open_engine(settings)
        init_db(engine)
        give_rights(engine, settings.app_role)
        engine.dispose()
        pipeline = running.enter_context(open_pipeline(settings, clock.now))
        kept = _introduce(pipeline, listeners)
        _live(console, pipeline, simulator, clock, listeners)
        _sync_through_dagster(console, settings, listeners)
        stack = running.enter_context(running_stack(settings, port))
        _press_sync(console, pipeline, stack, listeners)
        _show(console, pipeline, listeners)
        _show_recount(console, pipeline, simulator, listeners, kept)
        if not once:
            serve(console, stack)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Nobody else lives a demo in this home: two clocks would move the same people."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "demo.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"A demo is running in {home} already: stop it, or give this one a home of its "
                "own: SPOTIFY_PIPELINE_HOME=.spotify_pipeline_2 make demo"
            ) from None
        yield


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


def _introduce(pipeline: Pipeline, listeners: list[ListenerInfo]) -> dict[str, set[PlayKey]]:
    """Register and connect who is new or has lost the connection; return what is stored."""
    keyring, engine = pipeline.keyring, pipeline.engine
    with engine.begin() as conn:
        known = {status.user_id: status.connection for status in user_statuses(conn)}
        if strangers := known.keys() - {listener.user_id for listener in listeners}:
            raise ConfigurationError(
                f"{pipeline.settings.home} holds {len(strangers)} other listeners. Give the demo "
                "a home of its own: SPOTIFY_PIPELINE_HOME=.spotify_pipeline_demo make demo"
            )
        for listener in listeners:
            if known.get(listener.user_id) in ELIGIBLE:
                continue
            register_user(conn, listener.user_id, listener.timezone, listener.display_name)
            public_key = keyring.public_key(keyring.current_id)
            connect_user(
                conn,
                listener.user_id,
                client_id=pipeline.settings.spotify_client_id or "",
                sealed_refresh_token=seal(public_key, listener.user_id, listener.refresh_token),
                key_id=keyring.current_id,
                scopes=SCOPES,
                authorized_at=datetime.now(UTC),
            )
        return {listener.user_id: stored_plays(conn, listener.user_id) for listener in listeners}


def _live(
    console: Console,
    pipeline: Pipeline,
    simulator: Simulator,
    clock: Clock,
    listeners: list[ListenerInfo],
) -> None:
    """Collect every three hours of the last ten days (or since the last demo), up to now."""
    now = datetime.now(UTC)
    with pipeline.engine.connect() as conn:
        last = conn.scalar(
            select(t.sync_state.c.plays_fetched_at)
            .order_by(t.sync_state.c.plays_fetched_at.desc().nulls_last())
            .limit(1)
        )
    instants = [now]
    while instants[-1] - STEP > max(last or now - LIFE, now - LIFE):
        instants.append(instants[-1] - STEP)
    plays = (RECENTLY_PLAYED, DAILY_LISTENING)
    with _progress(console) as progress:
        task = progress.add_task("Living and collecting every 3 hours", total=len(instants))
        for number, instant in enumerate(reversed(instants)):
            clock.set(instant)
            # Top lists and personality change slowly: once a day, as at night.
            outcomes = sync_users(
                pipeline,
                [listener.user_id for listener in listeners],
                STEPS if number % 8 == 0 else plays,
            )
            for outcome in outcomes:
                if outcome.failure:
                    raise DemoFailed(f"{outcome.user_id}: {outcome.failure.message}")
            progress.advance(task)
    clock.set(None)


def _sync_through_dagster(
    console: Console, settings: Settings, listeners: list[ListenerInfo]
) -> None:
    """The newest state of every listener: the job sync_user on each partition."""
    with opened_instance(settings) as instance, _progress(console) as progress:
        task = progress.add_task("Materializing partitions in Dagster", total=len(listeners))
        for listener in listeners:
            if not sync_one(instance, listener.user_id).success:
                raise DemoFailed(f"The Dagster run of {listener.user_id} failed.")
            progress.advance(task)


def _press_sync(
    console: Console, pipeline: Pipeline, stack: Stack, listeners: list[ListenerInfo]
) -> None:
    """One request that the running sensor picks up, and one that the cooldown refuses."""
    for user_id in (listener.user_id for listener in listeners):
        try:
            request_id = _request(pipeline, user_id)
        except DatabaseError as refusal:
            console.print(f"{user_id} pressed Sync, refused: {_sentence(refusal)}")
            continue
        console.print(f"{user_id} pressed Sync; the running sensor takes it from here ...")
        started = time.monotonic()
        status = _await_end(pipeline, stack, request_id)
        if status != "succeeded":
            raise DemoFailed(f"The request of {user_id} {status}: see {stack.url}/runs")
        console.print(f"  {status} after {time.monotonic() - started:.1f} s")
        try:
            _request(pipeline, user_id)
        except DatabaseError as refusal:
            console.print(f"  pressed again at once, refused: {_sentence(refusal)}")
            return
        raise DemoFailed("A second request was accepted within the cooldown.")
    console.print("Everybody has synced within the last hour; press Sync again later.")


def _await_end(pipeline: Pipeline, stack: Stack, request_id: int) -> str:
    r = t.sync_requests

    def status() -> str:
        with pipeline.engine.connect() as conn:
            return str(conn.scalar(select(r.c.status).where(r.c.id == request_id)))

    stack.wait(REQUEST_SECONDS, lambda: status() not in ("queued", "running"), "The request")
    return status()


def _request(pipeline: Pipeline, user_id: str) -> int:
    with pipeline.engine.begin() as conn:
        row = conn.execute(
            text("SELECT request_id FROM spotify_pipeline.request_sync(:user_id)"),
            {"user_id": user_id},
        ).one()
        return int(row.request_id)


def _sentence(error: DatabaseError) -> str:
    """The database's own words, without SQL."""
    return str(error.orig).splitlines()[0]


def _show(console: Console, pipeline: Pipeline, listeners: list[ListenerInfo]) -> None:
    """A table per listener, read back from Postgres."""
    for listener in listeners:
        with pipeline.engine.connect() as conn:
            lines = list(_lines(conn, listener))
        view = View("", listener.user_id, title=f"{listener.display_name} · {listener.timezone}")
        for name, value in lines:
            view.add_row(name, value)
        console.print(view)


def _lines(conn: Connection, listener: ListenerInfo) -> Iterator[tuple[str, str]]:
    user_id = listener.user_id
    d, a, k, p = t.daily_listening, t.user_top_artists, t.user_top_tracks, t.music_personality
    rows = conn.execute(
        select(d.c.date, d.c.minutes, d.c.completeness).where(d.c.user_id == user_id)
    )
    minutes = {
        row.date: f"{row.minutes}{'' if row.completeness == 'complete' else '+'}" for row in rows
    }
    today = datetime.now(ZoneInfo(listener.timezone)).date()
    week = [today - timedelta(days=back) for back in range(6, -1, -1)]
    yield (
        "minutes (+: at least)",
        " ".join(f"{day:%a}"[:2] + f" {minutes.get(day, '–')}" for day in week),
    )
    first = (a.c.user_id == user_id, a.c.time_range == "short_term", a.c.rank == 1)
    yield "top artist", str(conn.scalar(select(a.c.name).where(*first)))
    first = (k.c.user_id == user_id, k.c.time_range == "short_term", k.c.rank == 1)
    track = conn.execute(select(k.c.name, k.c.artist_name).where(*first)).one_or_none()
    yield "top track", f"{track.name} ({track.artist_name})" if track else "none"
    row = conn.execute(select(p).where(p.c.user_id == user_id)).mappings().one()
    yield "personality", ", ".join(row["tags"]) or "no tags yet"
    for metric in ("artist_diversity", "effective_artists", "repeat_share"):
        value = row[metric]
        shown = f"{value:.2f}" if value is not None else row["reasons"].get(metric, "not known")
        yield metric, shown
    if (peak := row["peak_hour"]) is not None:
        yield "centre of the day", f"{int(peak):02}:{int(peak % 1 * 60):02}"
    yield "same top artist", f"{row['longest_streak']} days in a row at most"


def _show_recount(
    console: Console,
    pipeline: Pipeline,
    simulator: Simulator,
    listeners: list[ListenerInfo],
    kept: dict[str, set[PlayKey]],
) -> None:
    """Count every day again from the simulator's books and say whether they are equal."""
    with pipeline.engine.connect() as conn:
        counts = {
            listener.user_id: recount(conn, simulator, listener, kept[listener.user_id])
            for listener in listeners
        }
    days = sum(count.days for count in counts.values())
    plays = sum(count.plays for count in counts.values())
    wrong = {user_id: count.wrong_days for user_id, count in counts.items() if not count.equal}
    if wrong:
        raise DemoFailed(f"Counted again from the simulator's books, days differ: {wrong}")
    missed = sum(count.never_visible for count in counts.values())
    noticed = sum(count.inside_gaps for count in counts.values())
    console.print(
        f"Counted again from the simulator's books: {days} days and {plays} plays are equal.\n"
        f"{missed} plays were among Spotify's last 50 at none of the 3-hourly polls; {noticed} of "
        "them lie in gaps that the pipeline noticed."
    )


def _progress(console: Console) -> Progress:
    return Progress(console=console)
