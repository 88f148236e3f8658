"""Materializations of many users, stored in a statement per asset.

Dagster stores what an op yields or logs one by one, each with three statements and, from a process
of its own, once more through a pipe: 3.5 ms of CPU. Its storage takes batches too, which Dagster
itself uses for runs over a range of partitions only.
"""

import logging
import os
import time
from collections.abc import Iterable

import dagster as dg

from spotify_pipeline.defs.instance.dagster_private import StepMaterializationData


def store_materializations(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    materializations: Iterable[dg.AssetMaterialization],
) -> None:
    """Records them as events of the step. They are stored when this returns."""
    by_asset: dict[dg.AssetKey, list[dg.EventLogEntry]] = {}
    for one in materializations:
        by_asset.setdefault(one.asset_key, []).append(_entry(context, one))
    # An asset per batch: the storage notes the last event of the batch as its asset's latest.
    for batch in by_asset.values():
        context.instance.event_log_storage.store_event_batch(batch)


def _entry(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, one: dg.AssetMaterialization
) -> dg.EventLogEntry:
    """As Dagster makes it of a materialization that the step yields."""
    step = context.get_step_execution_context()
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=step.job_name,
        step_handle=step.step.handle,
        node_handle=step.step.node_handle,
        step_kind_value=step.step.kind.value,
        logging_tags=step.event_tags,
        event_specific_data=StepMaterializationData(one),
        message=f"Materialized value {one.label}.",
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
