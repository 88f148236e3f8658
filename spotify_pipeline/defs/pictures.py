"""The asset `listening_picture`: a picture of the user's listening, on their partition's page.

An asset of its own, because Dagster shows the metadata of the latest materialization only: on
`music_personality` the next poll would replace the picture. No job draws it: 25 KB per user and
poll would fill Dagster's event log.

It names the user's top artists, as metadata of their own partition; forgetting the user purges the
events of that partition.
"""

import base64
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.defs.metadata import OWNERS, asset_key
from spotify_pipeline.defs.partitions import user_partitions
from spotify_pipeline.domain.steps import DAILY_LISTENING, MUSIC_PERSONALITY, TOP_ARTISTS

if TYPE_CHECKING:
    from spotify_pipeline.sync.pipeline import Pipeline

log = logging.getLogger(__name__)

NOT_DRAWN = "A user's picture could not be drawn."
LISTENING_PICTURE = dg.AssetKey("listening_picture")


SPEC = dg.AssetSpec(
    LISTENING_PICTURE,
    deps=[asset_key(step) for step in (DAILY_LISTENING, *TOP_ARTISTS, MUSIC_PERSONALITY)],
    skippable=True,
    description=(
        "The user's listening as a picture: minutes per day, hours and top artists, as they are "
        "stored when it is drawn. Materialize a partition to draw it anew."
    ),
    group_name="listening",
    kinds={"svg"},
    owners=OWNERS,
    tags={"layer": "delivered"},
    partitions_def=user_partitions,
)


def draw_all(pipeline: "Pipeline", user_ids: Iterable[str]) -> list[dg.AssetMaterialization]:
    """The pictures of these users, but for those that cannot be drawn, which the log says.

    Everything else is stored by then, so a picture fails no run but its own.
    """
    drawn = []
    for user_id in user_ids:
        try:
            drawn.append(draw(pipeline, user_id))
        except Exception as error:
            log.warning("%s %s", NOT_DRAWN, type(error).__name__)
    return drawn


def draw(pipeline: "Pipeline", user_id: str) -> dg.AssetMaterialization:
    """The materialization that shows a user's picture. Raises NoResultFound without that user."""
    from spotify_pipeline.portrait.picture import picture
    from spotify_pipeline.storage.listening.portrait import read_portrait

    with pipeline.engine.connect() as conn:
        svg = picture(read_portrait(conn, user_id, pipeline.now()))
    data = base64.b64encode(svg.encode()).decode()
    image = f"![Minutes per day, hours and top artists](data:image/svg+xml;base64,{data})"
    return dg.AssetMaterialization(
        LISTENING_PICTURE, partition=user_id, metadata={"picture": dg.MetadataValue.md(image)}
    )
