"""Runs jobs in this process for the command line, recorded in Dagster like any other run."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.defs.assets import draw
from spotify_pipeline.defs.build import build_defs
from spotify_pipeline.defs.history_imports import counts_of
from spotify_pipeline.defs.instance import dagster_home
from spotify_pipeline.defs.metadata import IMPORTED_HISTORY
from spotify_pipeline.defs.partitions import HOST, TRIGGER, user_partitions
from spotify_pipeline.domain.import_receipt import Receipt
from spotify_pipeline.settings import Settings
from spotify_pipeline.storage.postgres.database import reach_dagster

if TYPE_CHECKING:
    from spotify_pipeline.sync.pipeline import Pipeline

MANUAL = {TRIGGER: "manual", HOST: socket.gethostname()}
# The command prints the failure itself; the run's log in Dagster has the rest.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@contextmanager
def opened_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance for these settings; makes its tables at first use.

    Raises sqlalchemy.exc.OperationalError when its database cannot be reached.
    """
    reach_dagster(settings)
    home = dagster_home(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    with dg.DagsterInstance.get() as instance:
        yield instance


def make_tables(settings: Settings) -> None:
    """Make Dagster's tables, once and not by its processes at the same time."""
    with opened_instance(settings):
        pass


def sync_user(instance: dg.DagsterInstance, user_id: str) -> dg.ExecuteInProcessResult:
    """Run the job sync_user on one partition. Does not raise when the run fails."""
    instance.add_dynamic_partitions(user_partitions.name or "", [user_id])
    return (
        build_defs()
        .resolve_job_def("sync_user")
        .execute_in_process(
            instance=instance,
            partition_key=user_id,
            run_config=QUIET,
            tags=MANUAL,
            raise_on_error=False,
        )
    )


def sync_many(
    instance: dg.DagsterInstance, run_id: str, selection: str
) -> dg.ExecuteInProcessResult:
    """Run the job sync_users under this run id. Does not raise when users fail."""
    return (
        build_defs()
        .resolve_job_def("sync_users")
        .execute_in_process(
            instance=instance,
            run_id=run_id,
            run_config={
                "ops": {"choose_users": {"config": {"selection": selection}}},
                **QUIET,
            },
            tags=MANUAL,
            raise_on_error=False,
        )
    )


def check_health(instance: dg.DagsterInstance) -> None:
    """Run the job health: the checks over all users. Does not raise when it fails."""
    build_defs().resolve_job_def("health").execute_in_process(
        instance=instance, run_config=QUIET, tags=MANUAL, raise_on_error=False
    )


def report_import(instance: dg.DagsterInstance, user_id: str, receipt: Receipt) -> None:
    """Materialize the user's imported_history with what became of the rows: counts only."""
    instance.add_dynamic_partitions(user_partitions.name or "", [user_id])
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            IMPORTED_HISTORY.key, partition=user_id, metadata=counts_of(receipt)
        )
    )


def report_pictures(
    instance: dg.DagsterInstance, pipeline: "Pipeline", user_ids: Sequence[str]
) -> None:
    """Materialize listening_picture for these users. Raises NoResultFound without a user."""
    for user_id in user_ids:
        instance.report_runless_asset_event(draw(pipeline, user_id))


def partition_keys(instance: dg.DagsterInstance) -> Sequence[str]:
    """The user_ids that are partitions in Dagster."""
    return instance.get_dynamic_partitions(user_partitions.name or "")


def why_failed(result: dg.ExecuteInProcessResult) -> str | None:
    """Why the run failed: the message of a dg.Failure, or the class of an unexpected error.

    None if it succeeded. Raises KeyboardInterrupt if that is what ended it.
    """
    if result.success:
        return None
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return failure.user_failure_data.description
            error = failure.error
            while error and error.cause:
                error = error.cause
            name = error.cls_name if error else None
            if name == dg.DagsterExecutionInterruptedError.__name__:
                raise KeyboardInterrupt
            return f"{name or 'An error'} in the step {event.step_key}."
    return "It ended before a step began."


def new_rows(result: dg.ExecuteInProcessResult) -> dict[str, int]:
    """How many rows each asset gained in the run; the keys are as in `domain.outcome`."""
    gained = {}
    for event in result.all_events:
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            new = materialization.metadata.get("new rows")
            if isinstance(new, dg.IntMetadataValue) and new.value is not None:
                gained["/".join(materialization.asset_key.path)] = new.value
    return gained
