"""The jobs: `sync_user` for one partition, `sync_users` for many users, and `health`."""

import dagster as dg

from spotify_pipeline.defs.checks import RECORD_HEALTH
from spotify_pipeline.defs.metadata import asset_key
from spotify_pipeline.defs.sync_users_job import sync_users
from spotify_pipeline.domain.steps import STEPS

__all__ = ["health", "sync_user", "sync_users"]

sync_user = dg.define_asset_job(
    "sync_user",
    selection=dg.AssetSelection.assets(*(asset_key(step) for step in STEPS)),
    description="Everything for one user: the whole graph on one partition.",
    executor_def=dg.in_process_executor,
)

health = dg.define_asset_job(
    "health",
    selection=dg.AssetSelection.assets(RECORD_HEALTH),
    description="Connection states, stale days, the retention of logs and old runs, asset checks.",
    executor_def=dg.in_process_executor,
)
