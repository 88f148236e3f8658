"""The asset `listening_picture`: a picture of the user's listening, on their partition's page.

An asset of its own, because Dagster shows the metadata of the latest materialization only: on
`music_personality` the next poll would replace the picture. No job draws it: 25 KB per user and
poll would fill Dagster's event log.

It names the user's top artists, as metadata of their own partition; forgetting the user purges the
events of that partition.
"""

import base64
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg
from sqlalchemy.exc import NoResultFound

from spotify_pipeline.defs.instance.event_batches import store_materializations
from spotify_pipeline.defs.metadata import OWNERS, asset_key
from spotify_pipeline.defs.partitions import user_partitions
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.user_sync_check import NO_SUCH_USER
from spotify_pipeline.domain.steps import DAILY_LISTENING, MUSIC_PERSONALITY, TOP_ARTISTS

if TYPE_CHECKING:
    from spotify_pipeline.sync.pipeline import Pipeline

LISTENING_PICTURE = dg.AssetKey("listening_picture")


@dg.multi_asset(
    name="listening_picture",
    specs=[
        dg.AssetSpec(
            LISTENING_PICTURE,
            deps=[asset_key(step) for step in (DAILY_LISTENING, *TOP_ARTISTS, MUSIC_PERSONALITY)],
            skippable=True,
            description=(
                "The user's listening as a picture: minutes per day, hours and top artists, as "
                "they are stored when it is drawn. Materialize a partition to draw it anew."
            ),
            group_name="listening",
            kinds={"svg"},
            owners=OWNERS,
            tags={"layer": "delivered"},
            partitions_def=user_partitions,
        )
    ],
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=200),
)
def listening_picture(
    context: dg.AssetExecutionContext, pipeline: PipelineResource
) -> Iterator[dg.MaterializeResult[None]]:
    """Draws the picture of each user of the run; a failure stops no other user's."""
    drawn, failures = [], Counter[str]()
    with pipeline.opened() as opened:
        for user_id in context.partition_keys:
            try:
                drawn.append(draw(opened, user_id))
            except NoResultFound:
                failures[NO_SUCH_USER] += 1
            except Exception as error:
                context.log.exception("The picture of a user could not be drawn.")
                failures[f"{type(error).__name__}: the run's log has the rest."] += 1
    if len(context.partition_keys) == 1:
        for picture in drawn:
            yield dg.MaterializeResult(LISTENING_PICTURE, metadata=picture.metadata)
    else:
        # Not yielded: Dagster would mark every partition of the run.
        store_materializations(context, drawn)
    if failures:
        total = len(context.partition_keys)
        lines = [
            f"{n} of {total} users: {why}" if total > 1 else why for why, n in failures.items()
        ]
        raise dg.Failure("\n".join(lines), allow_retries=False)


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
