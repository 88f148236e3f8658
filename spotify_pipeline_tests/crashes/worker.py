"""The program of a worker process: syncs on order, with production code."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection

from sqlalchemy.exc import DBAPIError

from spotify_pipeline.domain.outcome import STEPS
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.postgres.errors import explain_database
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.sync.users import sync_users

Program = Callable[[Connection, dict[str, str]], None]


@dataclass(frozen=True)
class Order:
    """An order to sync these users with the facts clock at `now`."""

    now: datetime
    user_ids: Sequence[str]
    steps: Sequence[str] = STEPS
    wait_seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """The outcome of an order: result and error code per user, or the message about Postgres."""

    results: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    error: str | None = None

    @property
    def synced(self) -> set[str]:
        return {user_id for user_id, (result, _) in self.results.items() if result == "synced"}


def run_pipeline(orders: Connection, environ: dict[str, str]) -> None:
    """Opens the pipeline and syncs on order until the pipe is closed.

    A failure of Postgres is reported with the operator's message; other errors end the process.
    """
    instant: list[datetime] = []
    settings = load_settings(environ)
    with open_pipeline(settings, lambda: instant[-1]) as pipeline:
        orders.send(Report())
        with suppress(EOFError):
            while True:
                order: Order = orders.recv()
                instant[:] = [order.now]
                try:
                    outcomes = sync_users(
                        pipeline, order.user_ids, order.steps, wait_seconds=order.wait_seconds
                    )
                except DBAPIError as error:
                    explained = explain_database(error, settings)
                    if explained is None:
                        raise
                    orders.send(Report(error=explained[0]))
                else:
                    results = {o.user_id: (o.result, o.error_code) for o in outcomes}
                    orders.send(Report(results))
