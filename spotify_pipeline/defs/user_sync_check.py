"""The one check per user: whether the last sync of the partition's user did everything.

A user who disconnected or has to reconnect passes it with the sentence that says so.

It is a check of the assets' own step, so a run that plans it also evaluates it. Runs over many
users evaluate it for those who failed and those who recovered. Executed without a partition, as the
UI offers, it is about all users. Checks of the record are in `checks`.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.defs.instance.event_batches import latest_materializations
from spotify_pipeline.defs.metadata import asset_key
from spotify_pipeline.defs.partitions import user_partitions
from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.steps import RECENTLY_PLAYED
from spotify_pipeline.terminal import count

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
            "fails or a later one recovers; executed without a partition it is about all users. "
            "`spotify-pipeline users list --failed` lists who fails."
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


def log_evaluations(
    context: dg.AssetExecutionContext, evaluations: Sequence[dg.AssetCheckEvaluation]
) -> None:
    """Record them outside of a check's own step, which Dagster allows and its types do not say."""
    for found in with_targets(context.instance, evaluations):
        context.log_event(found)


def with_targets(
    instance: dg.DagsterInstance, evaluations: Sequence[dg.AssetCheckEvaluation]
) -> list[dg.AssetCheckEvaluation]:
    """Each with the latest materialization of its partition.

    Without it the UI takes a check for one of an older materialization and shows it as missing.
    """
    partitions = [found.partition for found in evaluations if found.partition]
    targets = latest_materializations(instance, asset_key(RECENTLY_PLAYED), partitions)
    return [
        dg.AssetCheckEvaluation(
            asset_key=found.asset_key,
            check_name=found.check_name,
            passed=found.passed,
            partition=found.partition,
            description=found.description,
            metadata=found.metadata,
            target_materialization_data=targets.get(found.partition or ""),
        )
        for found in evaluations
    ]


def over_all_users(pipeline: "Pipeline") -> dg.AssetCheckEvaluation:
    """Whether no user's last sync failed, and how many users have to connect Spotify again."""
    from spotify_pipeline.storage.checks.inspection import failures_by_code, users_by_connection
    from spotify_pipeline.storage.checks.rules import NO_USER_RECONNECTS

    with pipeline.engine.connect() as conn:
        failures, connections = failures_by_code(conn), users_by_connection(conn)
    failed, users = sum(failures.values()), sum(connections.values())
    numbers: dict[str, int | str] = {"users": users, **failures}
    if failed:
        numbers["list the names"] = "spotify-pipeline users list --failed"
    if to_reconnect := connections.get("needs_reauth"):
        numbers["have to connect Spotify again"] = to_reconnect
        numbers["list who has to connect"] = NO_USER_RECONNECTS.command
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(RECENTLY_PLAYED),
        check_name=NAME,
        passed=not failed,
        description=f"The last sync of {failed:,} of {count(users, 'user')} failed.",
        metadata=numbers,
    )


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
