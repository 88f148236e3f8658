"""The sensor that keeps the partitions equal to the table users and purges forgotten users."""

import logging
from collections import Counter

import dagster as dg

from spotify_pipeline.defs.partitions import listeners
from spotify_pipeline.defs.resources import PipelineResource

log = logging.getLogger(__name__)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def partition_reconciler(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SkipReason:
    """Keeps the partitions equal to the table users; purges forgotten users from Dagster."""
    from spotify_pipeline.defs.instance.purge import purge_user
    from spotify_pipeline.storage.users.forgetting import (
        names_on_tombstones,
        note_traces,
        read_tombstones,
    )
    from spotify_pipeline.storage.users.queries import all_user_ids

    instance, name = context.instance, listeners.name or ""
    with pipeline.opened() as opened:
        partitions = set(instance.get_dynamic_partitions(name))
        with opened.engine.connect() as conn:
            users = set(all_user_ids(conn))
            tombstones, forgotten = read_tombstones(conn), names_on_tombstones(conn)
        # Not by a request in the tick's result: the tick would keep the names.
        instance.add_dynamic_partitions(name, sorted(users - partitions))
        # Partitions of users with a tombstone are left to the purge.
        unknown = partitions - users - forgotten
        for user_id in sorted(unknown):
            instance.delete_dynamic_partition(name, user_id)
        found, receipts, failed = Counter[str](), 0, 0
        for tombstone in tombstones:
            try:
                traces, was_all = purge_user(instance, tombstone)
                with opened.engine.begin() as conn:
                    note_traces(conn, tombstone, traces, last=was_all)
            except Exception as error:
                # Its message may contain the user id.
                log.warning("A purge failed and is repeated: %s", type(error).__name__)
                failed += 1
                continue
            found += traces
            receipts += was_all
    summary = f"{len(users)} users; {len(users - partitions)} partitions added, "
    summary += f"{len(unknown)} deleted."
    if tombstones:
        deleted = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items())) or "nothing"
        summary += (
            f" {len(tombstones)} forgotten: {deleted} deleted, {receipts} without a trace now, "
        )
        summary += f"{failed} failed."
    return dg.SkipReason(summary)
