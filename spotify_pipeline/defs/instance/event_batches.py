"""Stores the materializations of many users in one statement per asset.

Dagster stores yielded or logged events one by one, each with three statements and, from a step's
own process, a second time through a pipe: 3.5 ms of CPU. Its storage also takes batches, which
Dagster itself uses only for runs over a range of partitions.
"""

import logging
import os
import time
from collections.abc import Iterable, Sequence

import dagster as dg

from spotify_pipeline.defs.instance.dagster_private import (
    StepMaterializationData,
    TargetMaterialization,
)


def store_materializations(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    materializations: Iterable[dg.AssetMaterialization],
) -> None:
    """Stores the materializations as events of the step, before it returns."""
    by_asset: dict[dg.AssetKey, list[dg.EventLogEntry]] = {}
    for materialization in materializations:
        entry = _entry(context, materialization)
        by_asset.setdefault(materialization.asset_key, []).append(entry)
    # One asset per batch: the storage records only a batch's last event as its asset's latest.
    for batch in by_asset.values():
        context.instance.event_log_storage.store_event_batch(batch)


def latest_materializations(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partitions: Sequence[str]
) -> dict[str, TargetMaterialization]:
    """The latest materialization of each of these partitions, for a check to name; two queries."""
    if not partitions:
        return {}
    latest = instance.event_log_storage.get_latest_storage_id_by_partition(
        asset_key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions)
    )
    ids = list(latest.values())
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key, storage_ids=ids), limit=len(ids) or 1
    ).records
    return {
        record.partition_key: TargetMaterialization(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        for record in records
        if record.partition_key
    }


def _entry(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    materialization: dg.AssetMaterialization,
) -> dg.EventLogEntry:
    """The log entry that Dagster would write for a materialization that the step yields."""
    step = context.get_step_execution_context()
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=step.job_name,
        step_handle=step.step.handle,
        node_handle=step.step.node_handle,
        step_kind_value=step.step.kind.value,
        logging_tags=step.event_tags,
        event_specific_data=StepMaterializationData(materialization),
        message=f"Materialized value {materialization.label}.",
        pid=os.getpid(),
    )
    return dg.EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level=logging.DEBUG,
        user_message=event.message,
        run_id=step.run_id,
        timestamp=time.time(),
        step_key=step.step.key,
        job_name=step.job_name,
        dagster_event=event,
    )
