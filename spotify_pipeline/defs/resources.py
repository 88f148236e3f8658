"""The resource through which assets, ops and sensors open the Pipeline, and how ticks wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.redaction import redact

if TYPE_CHECKING:
    from spotify_pipeline.storage.postgres.types import Connection
    from spotify_pipeline.sync.pipeline import Pipeline

# The daemon begins a sensor's tick five seconds after the last one. A tick that finds nothing costs
# 0.14 s of CPU, so it waits for work: seldom does a user wait for the next tick.
WAIT_SECONDS = 4.0
# How long in a process that sets `ending` at its end, as ours does: Dagster's own would wait for
# its ticks at Ctrl-C.
LONG_WAIT_SECONDS = 25.0
# Ends the waits of this process; None if nothing sets it.
ending: threading.Event | None = None


def await_work(
    pipeline: "Pipeline", there: "Callable[[Connection], object]", *, briefly: bool = False
) -> None:
    """Return when the query finds something, after some seconds, or when the process ends."""
    seconds = WAIT_SECONDS if briefly or ending is None else LONG_WAIT_SECONDS
    stop = ending or threading.Event()
    pipeline.wait_for(lambda conn: stop.is_set() or there(conn), seconds, notified=True)


class PipelineResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Opens the pipeline configured by the environment.

    It has no fields on purpose: resource configuration is stored with every run, and the
    environment holds secrets.
    """

    @contextmanager
    def opened(self) -> Iterator["Pipeline"]:
        """Connections to Postgres and Spotify for the length of a step or tick."""
        # Lazy: the code location loads without pandas and requests.
        from spotify_pipeline.settings import load_settings
        from spotify_pipeline.storage.postgres.errors import explain_database
        from spotify_pipeline.storage.postgres.types import DBAPIError
        from spotify_pipeline.sync.pipeline import ClockIsWrong, open_pipeline

        settings = load_settings()
        try:
            with open_pipeline(settings) as pipeline:
                yield pipeline
        except ClockIsWrong as error:
            # No retry: the clock would still be wrong.
            raise dg.Failure(str(error), allow_retries=False) from None
        except DBAPIError as error:
            # So that the run page and the command show what is wrong with the database, and not
            # only the class of the error.
            if explained := explain_database(error, settings):
                raise dg.Failure(redact(explained[0])) from error
            raise
