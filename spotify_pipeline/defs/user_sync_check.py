"""The one check per user: whether the last sync of the partition's user did everything.

Syncs evaluate it for the users who failed and for those who recovered; from the UI it can be
evaluated for anybody.
"""

import warnings
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.defs.metadata import asset_key
from spotify_pipeline.defs.partitions import user_partitions
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.domain.steps import RECENTLY_PLAYED

if TYPE_CHECKING:
    from spotify_pipeline.sync.outcome import UserOutcome

NAME = "user_sync_ok"
WELL = "Every step of the last sync succeeded."

with warnings.catch_warnings():
    # Checks of partitions are a preview of Dagster 1.13.
    warnings.simplefilter("ignore", category=dg.PreviewWarning)

    @dg.asset_check(
        name=NAME,
        asset=asset_key(RECENTLY_PLAYED),
        partitions_def=user_partitions,
        description=(
            "The last sync of this user did everything. Evaluated when a sync fails and when a "
            "later one recovers."
        ),
    )
    def user_sync_ok(
        context: dg.AssetCheckExecutionContext, pipeline: PipelineResource
    ) -> dg.AssetCheckResult:
        """What the last sync of the partition's user left behind."""
        from spotify_pipeline.storage.users.lifecycle import user_statuses

        with pipeline.opened() as opened, opened.engine.connect() as conn:
            statuses = user_statuses(conn, [context.partition_key])
        if not statuses:
            return dg.AssetCheckResult(passed=False, description="There is no such user (any more)")
        code, message = statuses[0].last_error_code, statuses[0].last_error_message
        if code is None:
            return dg.AssetCheckResult(passed=True, description=WELL)
        return dg.AssetCheckResult(
            passed=False, description=f"{code}. {message}", metadata={"error_code": code}
        )


def evaluation(outcome: "UserOutcome") -> dg.AssetCheckEvaluation | None:
    """The check on the user's partition, if this sync failed or the one before it did."""
    failure = outcome.failure
    if outcome.gone or not (failure or outcome.recovered):
        return None
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(RECENTLY_PLAYED),
        check_name=NAME,
        passed=failure is None,
        partition=outcome.user_id,
        description=f"{failure.code}. {failure.message}" if failure else WELL,
        metadata={"error_code": str(failure.code)} if failure else {},
    )
