"""The one entry point that Dagster loads."""

import dagster as dg

from spotify_pipeline.defs.assets import listener_assets
from spotify_pipeline.defs.jobs import ChunkNumbers, sync_user, sync_users
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.schedules import SCHEDULES
from spotify_pipeline.defs.sensors import SENSORS


@dg.definitions
def defs() -> dg.Definitions:
    """Assets, jobs, schedules and sensors, with the pipeline configured by the environment."""
    return dg.Definitions(
        assets=[listener_assets],
        jobs=[sync_user, sync_users],
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={
            "pipeline": PipelineResource(),
            "chunk_numbers": dg.IOManagerDefinition.hardcoded_io_manager(ChunkNumbers()),
        },
        # One step needs no process of its own; sync_users brings its executor with its job.
        executor=dg.in_process_executor,
    )
