"""The picture of a user's listening on their partition of music_personality.

It names the user's top artists, as metadata of their own partition; forgetting the user purges the
events of that partition.
"""

import base64
import logging
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.portrait.picture import picture
from spotify_pipeline.storage.listening.portrait import read_portrait

if TYPE_CHECKING:
    from spotify_pipeline.sync.pipeline import Pipeline

log = logging.getLogger(__name__)


def picture_metadata(pipeline: "Pipeline", user_id: str) -> dict[str, dg.MetadataValue]:
    """The user's picture, as metadata of their partition; empty if it cannot be drawn.

    Everything is stored by then: a failure here must not fail the run.
    """
    try:
        with pipeline.engine.connect() as conn:
            svg = picture(read_portrait(conn, user_id, pipeline.now()))
    except Exception as error:
        log.warning("No picture could be drawn: %s", type(error).__name__)
        return {}
    data = base64.b64encode(svg.encode()).decode()
    image = f"![Minutes per day, hours and top artists](data:image/svg+xml;base64,{data})"
    return {"picture": dg.MetadataValue.md(image)}
