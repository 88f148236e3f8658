"""`spotify-pipeline healthy` and `metrics`: for systemd, compose and probes, and for Prometheus.

Imports neither Dagster nor pandas, because `healthy` is called every half minute.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

import click
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.cli.errors import explain
from spotify_pipeline.errors import UsageError, WorkFailed
from spotify_pipeline.settings import Settings, load_settings
from spotify_pipeline.storage.checks import inspection
from spotify_pipeline.storage.checks.inspection import Sign, read_metrics
from spotify_pipeline.storage.postgres.database import dagster_url, is_running, pipeline_url
from spotify_pipeline.storage.postgres.engine import PORTABLE, SESSION, make_engine
from spotify_pipeline.storage.postgres.schema import check_revision
from spotify_pipeline.storage.postgres.types import Connection, Engine, SQLAlchemyError
from spotify_pipeline.storage.work.api_budget import quota_of
from spotify_pipeline.terminal import example, print_json, printable

# For each database, of which there are two; a connection without an answer takes 10 of them.
SECONDS = 20
CONNECT_SECONDS = "10"

Question = Callable[[Connection, Settings], Sign]
_OURS: dict[str, Question] = {
    "database": lambda conn, _: inspection.database(conn),
    "polls": lambda conn, settings: inspection.polls(conn, quota_of(settings)),
    "requests": lambda conn, _: inspection.requests(conn),
}
_DAGSTERS: dict[str, Question] = {"daemon": lambda conn, _: inspection.daemon(conn)}
PARTS = (*_OURS, *_DAGSTERS)


@click.command(
    epilog=example("spotify-pipeline healthy", "spotify-pipeline healthy --only daemon --json")
)
@click.option(
    "--only", "parts", multiple=True, type=click.Choice(PARTS), help="Only this; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects: part, stale, sentence.")
def healthy(parts: Sequence[str], as_json: bool) -> None:
    """Say whether the pipeline lives, and exit 1 if it does not.

    Looks at the database, the heartbeat of Dagster's daemon (60 seconds old at most), the last
    poll (an hour, while users are due) and the oldest waiting request (5 minutes). Waiting for
    Spotify is healthy. Takes a second, and 40 when no database answers. For containers, systemd and
    probes; `doctor` says what to do.
    """
    settings, asked = load_settings(), parts or PARTS
    found = [
        sign
        for questions in (_OURS, _DAGSTERS)
        for sign in _look(settings, {name: questions[name] for name in questions if name in asked})
    ]
    if as_json:
        print_json([asdict(sign) for sign in found])
    else:
        for sign in found:
            click.echo(
                printable(f"{'stale' if sign.stale else 'ok':<6} {sign.part}: {sign.sentence}")
            )
    if stale := [sign.part for sign in found if sign.stale]:
        raise WorkFailed(f"Not healthy: {', '.join(stale)}. `spotify-pipeline doctor` says why.")


def _look(settings: Settings, questions: dict[str, Question]) -> Iterator[Sign]:
    """The answers of one database, ours or Dagster's; stale when it does not give them."""
    ours = "daemon" not in questions
    try:
        if questions:
            with _within(SECONDS), _connection(settings, ours) as conn:
                yield from [ask(conn, settings) for ask in questions.values()]
    except Exception as error:
        yield Sign("database" if ours else "daemon", True, explain(error)[0])


@contextmanager
def _connection(settings: Settings, ours: bool) -> Iterator[Connection]:
    if not is_running(settings):
        raise WorkFailed("The embedded Postgres does not run.")
    url = (pipeline_url if ours else dagster_url)(settings)
    if "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": CONNECT_SECONDS})
    engine = make_engine(url, pool_size=1, settings=SESSION if ours else PORTABLE)
    try:
        if ours:
            check_revision(engine)
        with engine.connect() as conn:
            yield conn
    finally:
        engine.dispose()


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    """Raises WorkFailed in the main thread when the block takes longer."""

    def end(number: int, frame: FrameType | None) -> None:
        raise WorkFailed(f"It gave no answer within {seconds} seconds.")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


PREFIX = "spotify_pipeline_"
# Name: (what it says, its label).
METRICS: dict[str, tuple[str, str]] = {
    "plays": ("Stored plays.", ""),
    "users": ("Users by the state of their connection.", "connection"),
    "open_gaps": ("Intervals in which plays were possibly lost.", ""),
    "requests_waiting": ("Sync requests that wait for a run.", ""),
    "oldest_request_seconds": ("Age of the oldest of them.", ""),
    "last_poll_seconds": ("Since the last successful poll of plays.", ""),
    "tokens_expiring": ("Tokens that expire within 30 days.", ""),
    "failed_users": ("Users whose last sync failed, by error code.", "code"),
    "imports": ("Imports of listening histories, by their status.", "status"),
    "blocked": ("1 while no call to Spotify may be made.", ""),
    "calls_used": ("Calls to Spotify in the last 24 hours.", ""),
    "calls_left": ("Calls left of the limit of 24 hours.", ""),
}
UP = f"{PREFIX}up"


class DatabaseCollector(Collector):
    """Reads every figure anew at each scrape; without a database only `up` is left, at 0."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metric families of one scrape."""
        try:
            with self._engine.connect() as conn:
                figures = read_metrics(conn, self._settings)
        except SQLAlchemyError:
            yield GaugeMetricFamily(UP, "1 while the database answers.", value=0)
            return
        yield GaugeMetricFamily(UP, "1 while the database answers.", value=1)
        for name, (about, label) in METRICS.items():
            family = GaugeMetricFamily(PREFIX + name, about, labels=[label] if label else [])
            for found, of, value in figures:
                if found == name:
                    family.add_metric([of] if label else [], value)
            yield family


@click.command(epilog=example("spotify-pipeline metrics --port 9464"))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9464, show_default=True, type=click.IntRange(1, 65535))
def metrics(host: str, port: int) -> None:
    """Serve /metrics for Prometheus, until Ctrl-C.

    Counts of what is stored, never a user id. They come from the database, so they are right also
    when runs crash.
    """
    settings = load_settings()
    with opened_database(settings) as engine:
        registry = CollectorRegistry()
        registry.register(DatabaseCollector(engine, settings))
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise UsageError(
                f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port."
            ) from None
        click.echo(f"Metrics are at http://{host}:{port}/metrics (Ctrl-C stops).")
        try:
            threading.Event().wait()
        finally:
            server.shutdown()
