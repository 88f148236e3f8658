"""The assets: a spec per step, one multi-asset that syncs the partition's user, and a picture.

One Dagster step for all assets instead of one each: as fast, with a third fewer events. An asset
that failed is not materialized, all others are.

`listening_picture` is an asset of its own, because Dagster shows the metadata of the latest
materialization only: on `music_personality` the next poll would replace the picture. No job draws
it: 25 KB per user and poll would fill Dagster's event log. It names the user's top artists, as
metadata of their own partition; forgetting the user purges the events of that partition.
"""

import base64
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.defs.checks import (
    NO_SUCH_USER,
    USER_SYNC_OK,
    as_result,
    evaluation,
    log_evaluations,
    no_such_user,
    over_all_users,
    stored_evaluation,
)
from spotify_pipeline.defs.instance.event_batches import store_materializations
from spotify_pipeline.defs.metadata import (
    CODE_VERSIONS,
    OWNERS,
    asset_key,
    asset_specs,
    lineage_metadata,
)
from spotify_pipeline.defs.partitions import request_key, user_partitions
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    MUSIC_PERSONALITY,
    PROFILE_REVALIDATION,
    RECENTLY_PLAYED,
    STEPS,
    TOP_ARTISTS,
)

if TYPE_CHECKING:
    from spotify_pipeline.domain.outcome import StepRows, UserOutcome
    from spotify_pipeline.storage.listening.counters import Week
    from spotify_pipeline.sync.pipeline import Pipeline

log = logging.getLogger(__name__)

NOT_DRAWN = "A user's picture could not be drawn."
LISTENING_PICTURE = dg.AssetKey("listening_picture")


PICTURE_SPEC = dg.AssetSpec(
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


# How long a run waits for another sync of the same user to end.
WAIT_SECONDS = 30


@dg.multi_asset(
    name="sync_user_assets",
    specs=[*asset_specs(), PICTURE_SPEC],
    check_specs=[USER_SYNC_OK],
    can_subset=True,
    partitions_def=user_partitions,
    # A backfill from the UI: one run for 200 users.
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=200),
)
def user_assets(
    context: dg.AssetExecutionContext, pipeline: PipelineResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Syncs the selected steps of the partition's user (or users, in a run over several)."""
    if not (context.has_partition_key or context.has_partition_key_range):
        # Only the check can be executed so. Not yielded: Dagster would look for its partition.
        with pipeline.opened() as opened:
            log_evaluations(context, [over_all_users(opened)])
        return
    selected = [step for step in STEPS if asset_key(step) in context.selected_asset_keys]
    drawn = LISTENING_PICTURE in context.selected_asset_keys
    with pipeline.opened() as opened:
        outcomes = _synced(context, opened, selected) if selected else []
        checks = _checks(context, opened, outcomes)
        weeks = weeks_of(opened, outcomes)
        pictures = draw_all(opened, context.partition_keys) if drawn else []
    if len(outcomes) == 1:
        (outcome,) = outcomes
        for step, rows in outcome.done.items():
            yield dg.MaterializeResult(
                asset_key(step),
                metadata={
                    **step_metadata(step, rows, weeks.get(outcome.user_id)),
                    **lineage_metadata(step),
                },
            )
    else:
        # Not yielded: Dagster would mark every partition of the run as materialized, those of
        # failed users too.
        done = (
            materializations(outcome.user_id, outcome.done, weeks.get(outcome.user_id))
            for outcome in outcomes
        )
        store_materializations(context, chain.from_iterable(done))
    if len(context.partition_keys) == 1:
        for picture in pictures:
            yield dg.MaterializeResult(LISTENING_PICTURE, metadata=picture.metadata)
    else:
        store_materializations(context, pictures)
    if len(outcomes) == 1 and context.selected_asset_check_keys:
        yield from map(as_result, checks)
    else:
        log_evaluations(context, checks)
    for observation in not_synced(outcomes, selected):
        context.log_event(observation)
    raise_failures(outcomes)
    if drawn and not selected and len(pictures) < len(context.partition_keys):
        raise dg.Failure(f"{NOT_DRAWN} The run's log says why.", allow_retries=False)


def _synced(
    context: dg.AssetExecutionContext, pipeline: "Pipeline", steps: Sequence[str]
) -> "list[UserOutcome]":
    """Syncs the users of the run's partitions, or of its requests, and delivers."""
    from spotify_pipeline.sync.requests import answer_requests
    from spotify_pipeline.sync.users import sync_users

    if dispatch_key := request_key(context.run):
        # Requests wait for others by themselves.
        return answer_requests(pipeline, dispatch_key, context.run.run_id, steps=steps)
    return sync_users(pipeline, context.partition_keys, steps, wait_seconds=WAIT_SECONDS)


def _checks(
    context: dg.AssetExecutionContext, pipeline: "Pipeline", outcomes: "Sequence[UserOutcome]"
) -> list[dg.AssetCheckEvaluation]:
    """The check of every user if the run plans it, else of those who failed or recovered."""
    found = {outcome.user_id: evaluation(outcome) for outcome in outcomes}
    if not context.selected_asset_check_keys:
        return list(filter(None, found.values()))
    return [
        found.get(user_id) or stored_evaluation(pipeline, user_id) or no_such_user(user_id)
        for user_id in found or context.partition_keys
    ]


def weeks_of(pipeline: "Pipeline", outcomes: "Iterable[UserOutcome]") -> "dict[str, Week]":
    """The last 7 days of the users of these outcomes for whom something was done."""
    from spotify_pipeline.storage.listening.counters import read_weeks

    user_ids = [outcome.user_id for outcome in outcomes if outcome.done]
    if not user_ids:
        return {}
    with pipeline.engine.connect() as conn:
        return read_weeks(conn, user_ids, pipeline.now())


def step_metadata(step: str, rows: "StepRows", week: "Week | None") -> dict[str, int | str]:
    """Counts of changed rows, never titles or names, and the fields that Spotify did not send."""
    numbers: dict[str, int | str] = {}
    if step != PROFILE_REVALIDATION:
        numbers = {
            "dagster/partition_row_count": rows.total,
            "new rows": rows.new,
            "changed rows": rows.changed,
        }
    elif not rows.remark:
        numbers["the app"] = "was notified" if rows.new else "has no webhook"
    if week and step == RECENTLY_PLAYED:
        numbers["plays in the last 7 days"] = week.plays
    elif week and step == DAILY_LISTENING:
        numbers["minutes in the last 7 days"] = week.minutes
        if week.days:
            numbers["complete days"] = f"{week.complete_days} of {week.days} with plays"
    elif week and week.tags is not None and step == MUSIC_PERSONALITY:
        numbers["plays in its 28 days"] = week.play_count
        numbers["tags"] = ", ".join(week.tags) or "none fits"
    if rows.not_provided:
        numbers["not provided by Spotify"] = ", ".join(rows.not_provided)
    if rows.remark:
        numbers["remark"] = rows.remark
    return numbers


def materializations(
    user_id: str, done: "Mapping[str, StepRows]", week: "Week | None"
) -> Iterator[dg.AssetMaterialization]:
    """One per step, on the user's partition."""
    for step, rows in done.items():
        yield dg.AssetMaterialization(
            asset_key(step),
            partition=user_id,
            metadata=step_metadata(step, rows, week),
            # Dagster itself adds it to what a step yields.
            tags={"dagster/code_version": CODE_VERSIONS[step]} if step in CODE_VERSIONS else None,
        )


def not_synced(
    outcomes: "Iterable[UserOutcome]", steps: Sequence[str]
) -> Iterator[dg.AssetObservation]:
    """Why users who have to connect Spotify again were not synced, on their partitions' pages.

    No failure, because only the user can reconnect. Dagster shows it beside the latest
    materialization until the next one.
    """
    for outcome in outcomes:
        if outcome.must_reconnect and outcome.failure:
            for step in steps:
                yield dg.AssetObservation(
                    asset_key(step),
                    partition=outcome.user_id,
                    description=outcome.failure.message,
                    metadata={"not synced": outcome.failure.message},
                )


def raise_failures(outcomes: "list[UserOutcome]") -> None:
    """Fail the step when any user failed, saying what happened and what to do.

    A user who has to connect Spotify again is no failure.
    """
    total = len(outcomes)
    if total == 1 and outcomes[0].gone:
        raise dg.Failure(f"{NO_SUCH_USER} Nothing was stored.", allow_retries=False)
    if total == 1 and outcomes[0].skipped:
        raise dg.Failure(f"{outcomes[0].skipped} Materialize again later.", allow_retries=False)
    failed = [outcome for outcome in outcomes if outcome.failures and not outcome.must_reconnect]
    busy = [outcome for outcome in outcomes if outcome.result == "skipped"]
    if not failed and not busy:
        return
    if total == 1:
        lines = [
            f"{step}: {failure.code}. {failure.message}"
            for step, failure in failed[0].failures.items()
        ]
    else:
        counts: dict[str, int] = {}
        for outcome in failed:
            counts[str(outcome.error_code)] = counts.get(str(outcome.error_code), 0) + 1
        lines = [f"{code}: {n} of {total} users" for code, n in sorted(counts.items())]
        if busy:
            lines.append(
                f"{len(busy)} of {total} users: {busy[0].skipped} Materialize again later."
            )
    # No retry of the run: calls to Spotify were already retried where that helps.
    raise dg.Failure("\n".join(dict.fromkeys(lines)), allow_retries=False)
