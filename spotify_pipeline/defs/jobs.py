"""The two jobs: `sync_user` for a partition, `sync_users` for many users in one run.

Both call the same functions of `sync/`. `sync_users` is an op job and not a run over a partition
range, because Dagster writes one planned event per asset and partition of a range before anything
runs, and marks all partitions materialized when one step ends.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from spotify_pipeline.defs.assets import log_materializations
from spotify_pipeline.defs.metadata import asset_key
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.retention import delete_old_runs
from spotify_pipeline.domain.steps import STEPS

sync_user = dg.define_asset_job(
    "sync_user",
    selection=dg.AssetSelection.assets(*(asset_key(step) for step in STEPS)),
    description="Everything for one user: the whole graph on one partition.",
    executor_def=dg.in_process_executor,
)


class ChunkNumbers(dg.IOManager):
    """Passes a chunk's number by its mapping key: steps on other machines need no shared disk."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Nothing to keep."""

    def load_input(self, context: dg.InputContext) -> int:
        """The number in the key of the dynamic output."""
        upstream = context.upstream_output
        assert upstream is not None
        assert upstream.mapping_key is not None
        return int(upstream.mapping_key)


class Choice(dg.Config):
    """Which users, and how many per chunk."""

    # active, due, eligible; or enlisted: those already in sync_run_users under the run's id.
    selection: str = "active"
    chunk_size: int = 100


class Work(dg.Config):
    """Which steps; and whether nobody waits for it, so that what is fresh may be left out."""

    steps: list[str] = Field(default_factory=lambda: list(STEPS))
    scheduled: bool = False


def _enlisted_under(context: dg.OpExecutionContext) -> str:
    """The run id under which the users stand in sync_run_users.

    A retry has an id of its own, but goes on with the chunks of the run that it retries.
    """
    return context.run.root_run_id or context.run_id


@dg.op(out=dg.DynamicOut(int, io_manager_key="chunk_numbers"))
def choose_users(
    context: dg.OpExecutionContext, config: Choice, pipeline: PipelineResource
) -> Iterator[dg.DynamicOutput[int]]:
    """Enlists the selected users in sync_run_users and hands out chunk numbers."""
    from spotify_pipeline.sync.runs import choose

    with pipeline.opened() as opened:
        chunks = choose(opened, _enlisted_under(context), config.selection, config.chunk_size)
    context.log.info(f"{config.selection} users in {chunks} chunks of up to {config.chunk_size}")
    for chunk in range(chunks):
        yield dg.DynamicOutput(chunk, mapping_key=str(chunk))


@dg.op(out=dg.Out(dg.Nothing))
def sync_chunk(
    context: dg.OpExecutionContext, config: Work, pipeline: PipelineResource, chunk: int
) -> None:
    """Syncs one chunk's users; materializes what changed, on each user's partition."""
    from spotify_pipeline.sync.runs import sync_chunk as sync_chunk_users

    with pipeline.opened() as opened:
        outcomes = sync_chunk_users(
            opened, _enlisted_under(context), chunk, config.steps, scheduled=config.scheduled
        )
    for outcome in outcomes:
        # Every event costs milliseconds: what did not change is not told again.
        log_materializations(context, outcome.user_id, outcome.news)


@dg.op(ins={"done": dg.In(dg.Nothing)})
def report_run(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Says in numbers how it went; fails the run when a user failed."""
    from spotify_pipeline.sync.runs import report

    with pipeline.opened() as opened:
        totals = report(opened, _enlisted_under(context))
    numbers = {
        **{f"users {outcome}": count for outcome, count in totals.by_outcome.items()},
        **{f"failed {code}": count for code, count in totals.by_code.items()},
        "new plays": totals.new_plays,
    }
    context.add_output_metadata(numbers)
    if totals.by_code:
        raise dg.Failure(
            "Not every user could be synced: "
            + ", ".join(f"{count} {code}" for code, count in sorted(totals.by_code.items()))
            + ". `spotify-pipeline users list --failed` names them and what to do.",
            # A failed step has no output to show them on.
            metadata=numbers,
            allow_retries=False,
        )


@dg.job(
    description="Many users in one run: chosen by selection, in chunks, each user on their own.",
    executor_def=dg.multiprocess_executor.configured({"max_concurrent": 2}),
)
def sync_users() -> None:
    """choose_users → sync_chunk per chunk → report_run."""
    report_run(choose_users().map(sync_chunk).collect())


@dg.op(out=dg.Out(dg.Nothing))
def look_after(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Brings up to date what time changes, and deletes what is kept for a while only."""
    from spotify_pipeline.sync.health import look_after as look_after_users

    with pipeline.opened() as opened:
        done = look_after_users(opened)
    context.add_output_metadata({**done, "dagster runs deleted": delete_old_runs(context.instance)})


@dg.job(description="Connection states, stale days, and the retention of logs and old runs.")
def health() -> None:
    """look_after."""
    look_after()
