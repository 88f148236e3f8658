"""The partitions follow the table users."""

import dagster as dg

from spotify_pipeline.defs.partitions import partition_reconciler
from spotify_pipeline_tests.defs.definitions_fixture import evaluated
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario


def tick(instance: dg.DagsterInstance) -> str:
    """Evaluates the sensor once; its message. Dagster stores that, so it names no user."""
    said = evaluated(partition_reconciler, instance)
    assert isinstance(said, dg.SkipReason)
    return said.skip_message or ""


def test_partitions_are_made_equal_to_the_users_both_ways(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    for user_id in ("anna", "ben", "cleo"):
        scenario.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES (:u)", u=user_id)
    instance.add_dynamic_partitions("spotify_users", ["ben", "left", "never there"])
    assert tick(instance) == "3 users; 2 partitions added, 2 deleted."
    assert set(instance.get_dynamic_partitions("spotify_users")) == {"anna", "ben", "cleo"}
    assert tick(instance) == "3 users; 0 partitions added, 0 deleted."
