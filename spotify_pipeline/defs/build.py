"""Builds the Definitions from assets, checks, jobs, schedules, sensors and resources."""

import os

import dagster as dg

from spotify_pipeline.defs.assets import user_assets
from spotify_pipeline.defs.checks import record_health
from spotify_pipeline.defs.history_imports import history_assets, import_history
from spotify_pipeline.defs.instance.executors import check_executor
from spotify_pipeline.defs.jobs import ChunkNumbers, health, sync_user, sync_users
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.schedules import SCHEDULES
from spotify_pipeline.defs.sensors import SENSORS
from spotify_pipeline.settings import load_settings


def build_defs(pipeline: PipelineResource | None = None) -> dg.Definitions:
    """All definitions, with this resource as their pipeline (default: from the environment).

    Raises ConfigurationError when the environment names an executor that cannot be used.
    """
    check_executor(load_settings(os.environ))
    return dg.Definitions(
        assets=[user_assets, history_assets, record_health],
        jobs=[sync_user, sync_users, import_history, health],
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={
            "pipeline": pipeline or PipelineResource(),
            "chunk_numbers": dg.IOManagerDefinition.hardcoded_io_manager(ChunkNumbers()),
        },
        # A run of one step needs no process per step; the job sync_users has its own executor.
        executor=dg.in_process_executor,
    )
