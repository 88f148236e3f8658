"""Puts the definitions together."""

import dagster as dg

from spotify_pipeline.defs.assets import listener_assets
from spotify_pipeline.defs.checks import hourly_checks
from spotify_pipeline.defs.jobs import ChunkNumbers, health, sync_user, sync_users
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.schedules import SCHEDULES
from spotify_pipeline.defs.sensors import SENSORS


def build_defs(pipeline: PipelineResource | None = None) -> dg.Definitions:
    """Assets, checks, jobs, schedules, sensors around a pipeline (default: the environment's)."""
    return dg.Definitions(
        assets=[listener_assets],
        asset_checks=[hourly_checks],
        jobs=[sync_user, sync_users, health],
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={
            "pipeline": pipeline or PipelineResource(),
            "chunk_numbers": dg.IOManagerDefinition.hardcoded_io_manager(ChunkNumbers()),
        },
        # One step needs no process of its own; sync_users brings its executor with its job.
        executor=dg.in_process_executor,
    )
