"""The partitions follow the table users."""

import dagster as dg

from spotify_pipeline.defs.partition_reconciler import partition_reconciler
from spotify_pipeline_tests.defs.staging import StagedPipeline
from spotify_pipeline_tests.sync.stage import Stage


def tick(instance: dg.DagsterInstance) -> list[object]:
    """One evaluation: the changes of partitions."""
    context = dg.build_sensor_context(instance=instance, resources={"pipeline": StagedPipeline()})
    result = partition_reconciler(context)
    if isinstance(result, dg.SkipReason):
        return []
    assert isinstance(result, dg.SensorResult)
    return list(result.dynamic_partitions_requests or [])


def test_partitions_are_made_equal_to_the_users_both_ways(
    stage: Stage, instance: dg.DagsterInstance
) -> None:
    for user_id in ("anna", "ben", "cleo"):
        stage.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES (:u)", u=user_id)
    instance.add_dynamic_partitions("spotify_users", ["ben", "forgotten", "never there"])
    changes = tick(instance)
    added, deleted = changes
    assert isinstance(added, dg.AddDynamicPartitionsRequest)
    assert added.partition_keys == ["anna", "cleo"]
    assert isinstance(deleted, dg.DeleteDynamicPartitionsRequest)
    assert deleted.partition_keys == ["forgotten", "never there"]
    instance.add_dynamic_partitions("spotify_users", added.partition_keys)
    for user_id in deleted.partition_keys:
        instance.delete_dynamic_partition("spotify_users", user_id)
    assert set(instance.get_dynamic_partitions("spotify_users")) == {"anna", "ben", "cleo"}
    assert tick(instance) == []
