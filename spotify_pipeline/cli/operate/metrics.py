"""`spotify-pipeline metrics`: /metrics for Prometheus, read from the database at each scrape."""

import threading
from collections.abc import Iterator

import click
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.errors import UsageError
from spotify_pipeline.settings import Settings, load_settings
from spotify_pipeline.storage.checks.inspection import read_metrics
from spotify_pipeline.storage.postgres.types import Engine, SQLAlchemyError
from spotify_pipeline.terminal import example

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
