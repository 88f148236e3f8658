"""The resource through which assets, ops and sensors open the Pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.redaction import redact

if TYPE_CHECKING:
    from spotify_pipeline.sync.pipeline import Pipeline


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
