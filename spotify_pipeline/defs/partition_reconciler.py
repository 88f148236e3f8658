"""The sensor that makes the partitions equal the table users."""

import dagster as dg

from spotify_pipeline.defs.partitions import listeners
from spotify_pipeline.defs.resources import PipelineResource


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def partition_reconciler(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SensorResult | dg.SkipReason:
    """Makes the partitions equal the table users, both ways."""
    from spotify_pipeline.storage.people import all_user_ids

    with pipeline.opened() as opened, opened.engine.connect() as conn:
        users = set(all_user_ids(conn))
    partitions = set(context.instance.get_dynamic_partitions(listeners.name or ""))
    added, gone = sorted(users - partitions), sorted(partitions - users)
    if not added and not gone:
        return dg.SkipReason(f"{len(users)} users, {len(partitions)} partitions.")
    changes: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if added:
        changes.append(listeners.build_add_request(added))
    if gone:
        changes.append(listeners.build_delete_request(gone))
    return dg.SensorResult(dynamic_partitions_requests=changes)
