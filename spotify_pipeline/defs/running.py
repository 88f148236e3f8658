"""Runs the jobs in this process, recorded in Dagster like any run. For the command line."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from spotify_pipeline.defs.build import build_defs
from spotify_pipeline.defs.partitions import listeners
from spotify_pipeline.defs.tags import TRIGGER
from spotify_pipeline.settings import ConfigurationError, Settings

MANUAL = {TRIGGER: "manual"}


def dagster_home(settings: Settings) -> Path:
    """The home's directory for Dagster, with the instance configuration of this checkout.

    Raises ConfigurationError outside a checkout.
    """
    beside_package = Path(__file__).resolve().parents[2] / "dagster.yaml"
    config = next((p for p in (Path("dagster.yaml"), beside_package) if p.is_file()), None)
    if config is None:
        raise ConfigurationError(
            "There is no dagster.yaml here: run this command in a checkout of spotify_pipeline."
        )
    home = settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config, home / "dagster.yaml")
    return home


@contextmanager
def opened_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance for these settings; makes its tables at first use."""
    home = dagster_home(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    with dg.DagsterInstance.get() as instance:
        yield instance


def sync_one(instance: dg.DagsterInstance, user_id: str) -> dg.ExecuteInProcessResult:
    """Run the job sync_user on one partition. Does not raise when the run fails."""
    instance.add_dynamic_partitions(listeners.name or "", [user_id])
    return (
        build_defs()
        .resolve_job_def("sync_user")
        .execute_in_process(
            instance=instance, partition_key=user_id, tags=MANUAL, raise_on_error=False
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
            run_config={"ops": {"choose_users": {"config": {"selection": selection}}}},
            tags=MANUAL,
            raise_on_error=False,
        )
    )


def partition_keys(instance: dg.DagsterInstance) -> Sequence[str]:
    """The users Dagster knows."""
    return instance.get_dynamic_partitions(listeners.name or "")
