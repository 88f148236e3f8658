"""Imports of the histories that an app hands over: the asset, its job, and the sensor.

The rows of history_imports are the source of truth: each tick compares the closed uploads with
Dagster's runs, so that after any crash an upload is imported, tried again or given up.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterRunStatus as Status

from spotify_pipeline.defs.assets import materializations, raise_failures, weeks_of
from spotify_pipeline.defs.checks import NO_SUCH_USER, stored_evaluation
from spotify_pipeline.defs.instance.event_batches import store_materializations
from spotify_pipeline.defs.metadata import IMPORTED_HISTORY
from spotify_pipeline.defs.partitions import DISPATCH_KEY, TRIGGER, user_partitions
from spotify_pipeline.defs.resources import PipelineResource, await_work
from spotify_pipeline.terminal import count

if TYPE_CHECKING:
    from spotify_pipeline.domain.import_receipt import Receipt
    from spotify_pipeline.storage.imports.uploads import Upload
    from spotify_pipeline.storage.postgres.types import Engine

MOST_ATTEMPTS = 3
# Gives Dagster time to retry a run whose process died.
PAUSE = timedelta(seconds=30)

GIVEN_UP = "The import failed three times. Upload the history again in a while."
CANCELLED = "The import was cancelled. Upload the history again."


@dg.multi_asset(
    name="history_assets",
    specs=[IMPORTED_HISTORY],
    partitions_def=user_partitions,
    backfill_policy=dg.BackfillPolicy.multi_run(),
)
def history_assets(
    context: dg.AssetExecutionContext, pipeline: PipelineResource
) -> Iterator[dg.MaterializeResult[None]]:
    """Imports what the app has handed over for the partition's user, and rebuilds their days.

    Where nothing waits, it reports the latest import again, or that there was none.
    """
    from spotify_pipeline.errors import WorkFailed
    from spotify_pipeline.sync.import_history import import_upload

    with pipeline.opened() as opened:
        try:
            receipt, outcomes = import_upload(opened, context.partition_key)
        except WorkFailed as error:
            # The sensor asks for another run.
            raise dg.Failure(str(error), allow_retries=False) from None
        if not receipt and stored_evaluation(opened, context.partition_key) is None:
            raise dg.Failure(NO_SUCH_USER, allow_retries=False)
        weeks = weeks_of(opened, outcomes)
    # Assets of another step: not yielded.
    done = (
        materializations(outcome.user_id, outcome.changes, weeks.get(outcome.user_id))
        for outcome in outcomes
    )
    store_materializations(context, chain.from_iterable(done))
    # Also for a user who has imported nothing: Dagster skips what is downstream of a missing
    # output, and a run of the whole graph would sync nothing.
    counts = counts_of(receipt) if receipt else {"rows_read": 0}
    yield dg.MaterializeResult(IMPORTED_HISTORY.key, metadata=counts)
    raise_failures(outcomes)


def counts_of(receipt: "Receipt") -> Mapping[str, int]:
    """Counts of the imported rows by fate."""
    return {"rows_read": receipt.rows_read, "files": len(receipt.files), **receipt.fates}


import_history = dg.define_asset_job(
    "import_history",
    selection=dg.AssetSelection.assets(IMPORTED_HISTORY.key),
    description="The history that the app has handed over for one user, and the days it changes.",
    executor_def=dg.in_process_executor,
)


@dg.sensor(
    job=import_history,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Starts a run for every listening history that an app has handed over, and another one "
        "when a run could not import it: three in all."
    ),
)
def history_import_sensor(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SensorResult | dg.SkipReason:
    """Starts runs for closed uploads."""
    from spotify_pipeline.storage.imports.uploads import closed_uploads

    with pipeline.opened() as opened:
        await_work(opened, closed_uploads)
        with opened.engine.connect() as conn:
            uploads = closed_uploads(conn)
        wanted = [_reconcile(context.instance, opened.engine, upload) for upload in uploads]
    ready = [upload for upload in wanted if upload]
    if not ready:
        going_on = f"{count(len(uploads), 'upload')} in progress."
        return dg.SkipReason(going_on if uploads else "No uploads.")
    # Not in the result: Dagster stores a tick's requests, and they would name users for ever.
    users = sorted(upload.user_id for upload in ready)
    context.instance.add_dynamic_partitions(user_partitions.name or "", users)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                upload.key,
                partition_key=upload.user_id,
                tags={TRIGGER: "upload", DISPATCH_KEY: upload.key},
            )
            for upload in ready
        ]
    )


def _reconcile(instance: dg.DagsterInstance, engine: "Engine", upload: "Upload") -> "Upload | None":
    """The upload whose run is to be asked for; None: it is in progress, or was given up."""
    from spotify_pipeline.storage.imports.uploads import fail_upload, try_again

    records = instance.get_run_records(
        dg.RunsFilter(tags={DISPATCH_KEY: upload.key}), limit=1, order_by="id"
    )
    status = records[0].dagster_run.status if records else Status.NOT_STARTED
    if status is Status.NOT_STARTED:
        # Also if the daemon crashed in between. Idempotent: Dagster starts one run per run key.
        return upload
    if not records[0].dagster_run.is_finished:
        return None
    if status is not Status.CANCELED:
        if datetime.now(UTC) - records[0].update_timestamp < PAUSE:
            return None
        if upload.attempts + 1 < MOST_ATTEMPTS:
            with engine.begin() as conn:
                return try_again(conn, upload)
    with engine.begin() as conn:
        fail_upload(conn, upload, CANCELLED if status is Status.CANCELED else GIVEN_UP)
    return None
