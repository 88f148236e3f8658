"""What runs inside a worker process: it syncs whenever it is told to, as production does."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection

from sqlalchemy.exc import DBAPIError

from spotify_pipeline.domain.steps import STEPS
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.postgres.errors import explain_database
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.sync.users import sync_users

Program = Callable[[Connection, dict[str, str]], None]


@dataclass(frozen=True)
class Order:
    """Sync these users; the facts clock shows `now`."""

    now: datetime
    user_ids: Sequence[str]
    steps: Sequence[str] = STEPS
    wait_seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What came of an order: a word per user and its code, or how Postgres failed, in words."""

    results: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    error: str | None = None

    @property
    def synced(self) -> set[str]:
        """Those for whom everything was done."""
        return {user_id for user_id, (result, _) in self.results.items() if result == "synced"}


def run_pipeline(orders: Connection, environ: dict[str, str]) -> None:
    """Opens the pipeline and syncs on order until nobody orders any more.

    A failure of Postgres is reported as an operator reads it; any surprise ends the process.
    """
    instant: list[datetime] = []
    with open_pipeline(load_settings(environ), lambda: instant[-1]) as pipeline:
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
                    told = explain_database(error)
                    if told is None:
                        raise
                    orders.send(Report(error=told[0]))
                else:
                    results = {o.user_id: (o.result, o.error_code) for o in outcomes}
                    orders.send(Report(results))
