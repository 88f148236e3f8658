"""The one check per user: whether the last sync of the partition's user did everything.

A user who disconnected or has to reconnect passes it with the sentence that says so.

It is a check of the assets' own step, so a run that plans it also evaluates it. Runs over many
users evaluate it for those who failed and those who recovered. Checks over all users are in
`checks`.
"""

import warnings
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.defs.metadata import asset_key
from spotify_pipeline.defs.partitions import user_partitions
from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.steps import RECENTLY_PLAYED

if TYPE_CHECKING:
    from spotify_pipeline.domain.outcome import UserOutcome
    from spotify_pipeline.sync.pipeline import Pipeline

NAME = "user_sync_ok"
NO_SUCH_USER = "There is no such user (any more)."

with warnings.catch_warnings():
    # Checks of partitions are a preview of Dagster 1.13.
    warnings.simplefilter("ignore", category=dg.PreviewWarning)
    USER_SYNC_OK = dg.AssetCheckSpec(
        NAME,
        asset=asset_key(RECENTLY_PLAYED),
        partitions_def=user_partitions,
        description=(
            "The last sync of this user did everything, or the user has to connect Spotify again, "
            "which is no failure. Evaluated by a run of this user, and when a sync of many users "
            "fails or a later one recovers. `spotify-pipeline users list --failed` lists who fails."
        ),
    )


def evaluation(outcome: "UserOutcome") -> dg.AssetCheckEvaluation | None:
    """The check on the user's partition, if this sync failed or the one before it did."""
    failure = outcome.failure
    if outcome.gone or not (failure or outcome.recovered):
        return None
    error = (str(failure.code), failure.message) if failure else None
    return _evaluation(outcome.user_id, error)


def stored_evaluation(pipeline: "Pipeline", user_id: str) -> dg.AssetCheckEvaluation | None:
    """The check by what the user's last sync stored; None if there is no such user (any more)."""
    from spotify_pipeline.storage.users.status import user_statuses

    with pipeline.engine.connect() as conn:
        statuses = user_statuses(conn, [user_id])
    if not statuses:
        return None
    code, message = statuses[0].last_error_code, statuses[0].last_error_message
    return _evaluation(user_id, (code, message or "") if code else None)


def no_such_user(user_id: str) -> dg.AssetCheckEvaluation:
    """The check for a partition whose user does not exist (any more)."""
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(RECENTLY_PLAYED),
        check_name=NAME,
        passed=False,
        partition=user_id,
        description=NO_SUCH_USER,
    )


def as_result(found: dg.AssetCheckEvaluation) -> dg.AssetCheckResult:
    """The same for a step to yield; Dagster adds the partition."""
    return dg.AssetCheckResult(
        asset_key=found.asset_key,
        check_name=found.check_name,
        passed=found.passed,
        description=found.description,
        metadata=found.metadata,
    )


def log_evaluation(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, found: dg.AssetCheckEvaluation
) -> None:
    """Record it outside of a check's own step, which Dagster allows and its types do not say."""
    context.log_event(found)  # type: ignore[arg-type]


def _evaluation(user_id: str, error: tuple[str, str] | None) -> dg.AssetCheckEvaluation:
    code, message = error or (None, "Every step of the last sync succeeded.")
    must_reconnect = code == ErrorCode.RECONNECT
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(RECENTLY_PLAYED),
        check_name=NAME,
        passed=code is None or must_reconnect,
        partition=user_id,
        description=message if code is None or must_reconnect else f"{code}. {message}",
        metadata={"error_code": error[0]} if error else {},
    )
