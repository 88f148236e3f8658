"""The jobs: `sync_user` for one partition, `sync_users` for many users, and `health`."""

from datetime import timedelta

import dagster as dg

from spotify_pipeline.defs.checks import OF_USER, check_tables
from spotify_pipeline.defs.instance.retention import delete_old_runs
from spotify_pipeline.defs.metadata import asset_key
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.sync_users_job import sync_users
from spotify_pipeline.domain.steps import STEPS

__all__ = ["health", "sync_user", "sync_users"]

sync_user = dg.define_asset_job(
    "sync_user",
    # Only the user's own checks: checks over all users run hourly, and the sync itself evaluates
    # user_sync_ok.
    selection=dg.AssetSelection.assets(*(asset_key(step) for step in STEPS)).without_checks()
    | dg.AssetSelection.checks(*(spec.key for spec in OF_USER)),
    description="Syncs one user: materializes all assets on the user's partition.",
    executor_def=dg.in_process_executor,
)


@dg.op(out=dg.Out(dg.Nothing))
def run_maintenance(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Updates connection states and stale days; deletes old logs and old runs."""
    from spotify_pipeline.sync.admin.maintenance import run_maintenance as maintain

    with pipeline.opened() as opened:
        counts = maintain(opened)
        keep = timedelta(days=opened.settings.keep_runs_days)
    context.add_output_metadata(counts | delete_old_runs(context.instance, keep))


@dg.job(
    description="Updates connection states and stale days, deletes old logs and runs, runs checks."
)
def health() -> None:
    """run_maintenance and check_tables."""
    run_maintenance()
    check_tables()
