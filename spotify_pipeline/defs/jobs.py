"""The jobs: `sync_user` for one partition, `sync_users` for many users, and `health`.

`sync_users` works in chunks that can run in any process, and calls the same functions as
`sync_user`. It is an op job and not a run over a partition range, because Dagster writes one
planned event per asset and partition of a range before anything runs, and marks all partitions
materialized when one step ends.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from spotify_pipeline.defs.assets import materializations, not_synced, weeks_of
from spotify_pipeline.defs.checks import RECORD_HEALTH, evaluation, with_targets
from spotify_pipeline.defs.instance.event_batches import store_materializations
from spotify_pipeline.defs.instance.executors import chunk_executor
from spotify_pipeline.defs.metadata import asset_key
from spotify_pipeline.defs.partitions import request_key
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.outcome import STEPS

if TYPE_CHECKING:
    from spotify_pipeline.domain.outcome import UserOutcome
    from spotify_pipeline.storage.work.sync_runs import RunTotals

LARGEST_CHUNK = 1000
SELECTIONS = ("active", "due", "eligible", "enlisted")


class Chunk(NamedTuple):
    """A chunk of a run's users, as one step hands it to the next."""

    run_id: str
    number: int


class ChunkNumbers(dg.IOManager):
    """Reads a chunk from its output's run id and mapping key, so steps need no shared disk.

    A retry that leaves out choose_users reads the chunks of the run that it retries.
    """

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Stores nothing."""

    def load_input(self, context: dg.InputContext) -> Chunk:
        """The run id and the chunk number, which is the mapping key of the dynamic output."""
        upstream = context.upstream_output
        assert upstream is not None
        assert upstream.mapping_key is not None
        return Chunk(upstream.run_id, int(upstream.mapping_key))


def _enum(name: str, values: Iterable[str]) -> dg.Enum:
    """An enum: the launchpad offers its values and refuses others before a run starts."""
    return dg.Enum(name, [dg.EnumValue(value) for value in values])


CHOICE = {
    "selection": dg.Field(
        _enum("Selection", SELECTIONS),
        default_value="active",
        description=(
            "Which users to sync. enlisted: those that `spotify-pipeline sync USER...` wrote into "
            "sync_run_users under the run's id; no user is named in a run's configuration."
        ),
    ),
    "chunk_size": dg.Field(
        # Between two chunks a process fetches nothing for a second. Larger ones leave processes
        # without work at the end of a run, and users leased for longer.
        int,
        default_value=125,
        description=f"Users per step, 1 to {LARGEST_CHUNK}.",
    ),
}
WORK = {
    "steps": dg.Field(
        [_enum("Step", STEPS)], default_value=list(STEPS), description="Which steps to run."
    ),
    "scheduled": dg.Field(
        bool,
        default_value=False,
        description="Whether to skip what was fetched recently: no user waits for this run.",
    ),
}


@dg.op(out=dg.DynamicOut(io_manager_key="chunk_numbers"), config_schema=CHOICE)
def choose_users(
    context: dg.OpExecutionContext, pipeline: PipelineResource
) -> Iterator[dg.DynamicOutput[Chunk]]:
    """Enlists the selected users in sync_run_users and hands out chunk numbers."""
    from spotify_pipeline.sync.requests import enlist_requests
    from spotify_pipeline.sync.runs import NoEnlistedUsers, choose

    selection, size = context.op_config["selection"], context.op_config["chunk_size"]
    if not 1 <= size <= LARGEST_CHUNK:
        raise dg.Failure(f"chunk_size is {size}: choose 1 to {LARGEST_CHUNK}.", allow_retries=False)
    earlier = [context.run.parent_run_id, context.run.root_run_id]
    with pipeline.opened() as opened:
        if dispatch_key := request_key(context.run):
            enlist_requests(opened, dispatch_key, context.run_id, size)
        try:
            chunks = choose(opened, context.run_id, selection, size, list(filter(None, earlier)))
        except NoEnlistedUsers as error:
            raise dg.Failure(str(error), allow_retries=False) from None
    context.log.info(f"{selection} users in {chunks} chunks of up to {size}")
    for number in range(chunks):
        yield dg.DynamicOutput(Chunk(context.run_id, number), mapping_key=str(number))


@dg.op(
    out=dg.Out(dg.Nothing),
    config_schema=WORK,
    # For a step whose process crashed: a user's failure raises nothing here, and Dagster retries a
    # run only when the run's own process crashed.
    retry_policy=dg.RetryPolicy(max_retries=2, delay=1),
)
def sync_chunk(
    context: dg.OpExecutionContext, pipeline: PipelineResource, chunk: Chunk
) -> Iterator[dg.AssetCheckEvaluation | dg.AssetObservation | dg.Output[None]]:
    """Syncs a chunk's users; emits changes, failures and recoveries on their partitions."""
    from spotify_pipeline.sync.runs import sync_chunk as synced_chunk

    def emit(outcomes: "Sequence[UserOutcome]") -> None:
        # Only changes: an unchanged asset would cost an event per user and poll.
        weeks = weeks_of(opened, [outcome for outcome in outcomes if outcome.changes])
        changed = (
            materializations(outcome.user_id, outcome.changes, weeks.get(outcome.user_id))
            for outcome in outcomes
        )
        store_materializations(context, chain.from_iterable(changed))

    with (
        pipeline.opened() as opened,
        synced_chunk(
            opened,
            chunk.run_id,
            chunk.number,
            context.op_config["steps"],
            scheduled=context.op_config["scheduled"],
            dispatch_key=request_key(context.run),
            emit=emit,
        ) as outcomes,
    ):
        # Yielded, because Dagster holds back logged events until the step ends.
        checks = list(filter(None, map(evaluation, outcomes)))
        yield from with_targets(context.instance, checks)
        yield from not_synced(outcomes, context.op_config["steps"])
    yield dg.Output(None)


@dg.op(ins={"done": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def report_run(
    context: dg.OpExecutionContext, pipeline: PipelineResource, chunks: list[Chunk]
) -> None:
    """Reports the run's counts; fails the run when a user failed, but for those to reconnect."""
    from spotify_pipeline.sync.runs import report

    run_id = chunks[0].run_id if chunks else context.run_id
    with pipeline.opened() as opened:
        totals = report(opened, run_id)
    numbers = _numbers(totals, run_id)
    context.add_output_metadata(numbers)
    failed = {code: n for code, n in totals.by_code.items() if code != ErrorCode.RECONNECT}
    if failed:
        raise dg.Failure(
            "Not every user could be synced: "
            + ", ".join(f"{count} {code}" for code, count in sorted(failed.items()))
            + f". `{numbers['who']}` names them and says what to do.",
            # A failed step has no output that could show them.
            metadata=numbers,
            allow_retries=False,
        )


def _numbers(totals: "RunTotals", run_id: str) -> dict[str, int | float | str]:
    """Counts of the run, without names; `who` is the command that lists the users."""
    slowest = totals.slowest_chunk
    return {
        **{f"users {outcome}": count for outcome, count in sorted(totals.by_outcome.items())},
        **{f"failed {code}": count for code, count in sorted(totals.by_code.items())},
        "new plays": totals.new_plays,
        "API calls": totals.api_calls,
        "seconds throttled": round(totals.throttled_seconds, 1),
        **(
            {"slowest chunk": f"{slowest}: {totals.slowest_chunk_seconds:.1f} s"}
            if slowest is not None
            else {}
        ),
        "who": f"spotify-pipeline users list --run {run_id}",
    }


@dg.job(
    description="Syncs many users in one run, in chunks. A user's failure stops no other user.",
    executor_def=chunk_executor,
)
def sync_users() -> None:
    """choose_users → sync_chunk per chunk → report_run."""
    chunks = choose_users()
    report_run(chunks=chunks.collect(), done=chunks.map(sync_chunk).collect())


__all__ = ["health", "sync_user", "sync_users"]

sync_user = dg.define_asset_job(
    "sync_user",
    selection=dg.AssetSelection.assets(*(asset_key(step) for step in STEPS)),
    description="Everything for one user: the whole graph on one partition.",
    executor_def=dg.in_process_executor,
)

health = dg.define_asset_job(
    "health",
    selection=dg.AssetSelection.assets(RECORD_HEALTH),
    description="Connection states, stale days, the retention of logs and old runs, asset checks.",
    executor_def=dg.in_process_executor,
)
