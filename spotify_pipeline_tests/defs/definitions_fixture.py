"""Definitions around the pipeline of a test, and what Dagster has recorded of their runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from sqlalchemy import Engine, event

from spotify_pipeline.defs.build import build_defs
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.domain.outcome import STEPS
from spotify_pipeline.sync.pipeline import Pipeline

_on_stage: list[Pipeline] = []


class StagedPipeline(PipelineResource):
    """Hands out the pipeline that is on stage, and leaves it open."""

    @contextmanager
    def opened(self) -> Iterator[Pipeline]:
        yield _on_stage[-1]


@contextmanager
def definitions_of(pipeline: Pipeline) -> Iterator[None]:
    """Within the block, definitions with a StagedPipeline work with this pipeline."""
    _on_stage.append(pipeline)
    try:
        yield
    finally:
        _on_stage.pop()


class Crash(BaseException):
    """Stands for the death of a process: nothing catches it."""


@contextmanager
def crashing(statements: int | None) -> Iterator[list[bool]]:
    """Within the block this process dies before it has sent one more than so many statements.

    The list says, afterwards, whether it did.
    """
    left = statements
    crashed = [False]

    def count(*_: object) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                raise Crash

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield crashed
    except Crash:
        crashed[0] = True
    finally:
        event.remove(Engine, "before_cursor_execute", count)


def staged_defs() -> dg.Definitions:
    """The project's definitions around the pipeline on stage."""
    return build_defs(StagedPipeline())


def evaluated(sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> Any:
    """What one tick of a sensor says or asks for."""
    resources = {"pipeline": StagedPipeline()}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        return sensor(context)


def materialize(
    instance: dg.DagsterInstance,
    user_id: str,
    steps: Sequence[str] | None = None,
    tags: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """The job sync_user for a partition, or only these steps of it."""
    instance.add_dynamic_partitions("spotify_users", [user_id])
    return (
        staged_defs()
        .resolve_job_def("sync_user")
        .execute_in_process(
            instance=instance,
            partition_key=user_id,
            tags=tags,
            asset_selection=[key(step) for step in steps] if steps else None,
            raise_on_error=False,
        )
    )


def key(step: str) -> dg.AssetKey:
    return dg.AssetKey(step.split("/"))


def materialized(
    instance: dg.DagsterInstance, run_id: str | None = None
) -> dict[tuple[str, str | None], dict[str, object]]:
    """Metadata of the latest materializations (of a run), by step and partition."""
    found = {}
    for step in STEPS:
        records = instance.fetch_materializations(key(step), limit=1000).records
        for record in reversed(records):
            event = record.asset_materialization
            if event is not None and run_id in (None, record.run_id):
                found[step, event.partition] = {
                    name: value.value for name, value in event.metadata.items()
                }
    return found


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """What the failed step says, as the UI shows it."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    return failure.description or ""
