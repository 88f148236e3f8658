"""The one entry point that Dagster loads."""

import dagster as dg

from spotify_pipeline.defs.build import build_defs
from spotify_pipeline.defs.instance.redaction import install


@dg.definitions
def defs() -> dg.Definitions:
    """The pipeline as the environment configures it."""
    install()
    return build_defs()
