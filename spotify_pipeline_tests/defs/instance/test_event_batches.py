"""Materializations that are stored in batches look like those that Dagster stores one by one."""

from collections.abc import Iterator

import dagster as dg

from spotify_pipeline.defs.instance.event_batches import store_materializations

WHO = ("anna", "ben", "cleo")


def of(asset: str, user_id: str) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(asset, partition=user_id, metadata={"new": 3})


@dg.op(out=dg.Out(dg.Nothing))
def one_by_one() -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    for user_id in WHO:
        yield of("plays", user_id)
        yield of("days", user_id)
    yield dg.Output(None)


@dg.op
def at_once(context: dg.OpExecutionContext) -> None:
    store_materializations(context, [of(asset, who) for who in WHO for asset in ("plays", "days")])


@dg.job
def both() -> None:
    one_by_one()
    at_once()


def test_a_batch_leaves_the_events_that_the_step_would_have_yielded(
    instance: dg.DagsterInstance,
) -> None:
    run = both.execute_in_process(instance=instance)
    stored = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)

    def told_by(step: str) -> list[dict[str, object]]:
        """Everything but the time, with the step's name left out."""
        entries = sorted(
            (entry for entry in stored if entry.step_key == step),
            key=lambda entry: (str(entry.asset_materialization), entry.timestamp),
        )
        texts = [dg.serialize_value(entry._replace(timestamp=0.0)) for entry in entries]
        return [text.replace(step, "STEP") for text in texts]

    assert len(told_by("at_once")) == 6
    assert told_by("at_once") == told_by("one_by_one")


def test_the_last_of_a_batch_is_the_latest_of_its_asset(instance: dg.DagsterInstance) -> None:
    run = both.execute_in_process(instance=instance)
    for asset in ("plays", "days"):
        key = dg.AssetKey(asset)
        latest = instance.get_latest_materialization_event(key)
        assert latest is not None
        assert (latest.run_id, latest.asset_materialization) == (run.run_id, of(asset, "cleo"))
        assert instance.get_materialized_partitions(key) == set(WHO)
