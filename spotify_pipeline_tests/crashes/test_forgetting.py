"""Users are forgotten while syncs and purges crash: no row or file contains their id afterwards."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from threading import Event
from time import monotonic

import dagster as dg
import pytest
from dagster._core.errors import DagsterUnknownPartitionError
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from sqlalchemy import URL, Engine

from spotify_pipeline.defs.build import build_defs
from spotify_pipeline.defs.in_process import opened_instance, sync_user
from spotify_pipeline.defs.partitions import partition_reconciler
from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.crashes.conftest import Scale
from spotify_pipeline_tests.crashes.crash_scenario import (
    UNLIMITED,
    CrashScenario,
    open_crash_scenario,
)
from spotify_pipeline_tests.crashes.processes import Worker
from spotify_pipeline_tests.crashes.worker import Order, Report
from spotify_pipeline_tests.defs.dagster_cluster import dagster_environment, set_environment
from spotify_pipeline_tests.defs.definitions_fixture import crashing, definitions_of, evaluated
from spotify_pipeline_tests.traces import files_naming, rows_naming

MARKER = "vergissmeinnicht"
# A sync of all users takes about as long, so the deletion hits any point of it.
LONGEST_WAIT = 1.5
# Covers a race: the time between the end of a search for runs and the record of a starting one.
GRACE = timedelta(seconds=10)


def run_jobs(orders: Connection, environ: dict[str, str]) -> None:
    """Runs sync_user for the users of an order, or sync_users if it has none."""
    os.environ.update(environ)
    with opened_instance(load_settings()) as instance:
        orders.send(Report())
        with suppress(EOFError):
            while True:
                order: Order = orders.recv()
                for user_id in order.user_ids:
                    # The partition may be deleted before the run starts.
                    with suppress(DagsterUnknownPartitionError):
                        sync_user(instance, user_id)
                if not order.user_ids:
                    build_defs().resolve_job_def("sync_users").execute_in_process(
                        instance=instance, raise_on_error=False
                    )
                orders.send(Report())


@dataclass
class ForgettingScenario:
    """Two databases, two workers that sync through Dagster, and a purge that sometimes crashes."""

    case: CrashScenario
    instance: dg.DagsterInstance
    environ: dict[str, str]
    urls: tuple[URL, URL]
    home: Path
    workers: list[Worker] = field(default_factory=list)
    kills: int = 0
    crashes: int = 0

    def sync(self, user_id: str) -> None:
        """One worker syncs this user, another all users."""
        while len(self.workers) < 2:
            self.workers.append(Worker(run_jobs, self.environ))
        for worker, user_ids in zip(self.workers, [(user_id,), ()], strict=True):
            worker.order(Order(self.case.now, user_ids))

    def end_syncs(self, rng: Random) -> None:
        """Kills some workers, waits for the others, and reports unfinished runs as failed."""
        for worker in list(self.workers):
            if rng.random() < 0.25:
                worker.close()
                self.workers.remove(worker)
                self.kills += 1
            else:
                assert worker.report() is not None
        for run in self.instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)):
            self.instance.report_run_failed(run)

    def reconcile(self, crash_after: int | None = None) -> None:
        """One tick of the reconciler, which crashes after so many statements."""
        with definitions_of(self.case.scenario.pipeline), crashing(crash_after) as crashed:
            evaluated(partition_reconciler, self.instance)
        self.crashes += crashed[0]

    def days_of_others(self) -> dict[str, set[date]]:
        """The stored days of each user who is not forgotten."""
        days: dict[str, set[date]] = {}
        for row in self.case.scenario.rows(t.daily_listening):
            days.setdefault(row["user_id"], set()).add(row["date"])
        return days

    def naming(self) -> dict[str, object]:
        """Rows and files that contain the id of a forgotten user."""
        found: dict[str, object] = {}
        for url in self.urls:
            found |= rows_naming(url, MARKER)
        if files := files_naming(self.home, MARKER):
            found["files"] = files
        return found


@pytest.fixture
def forgetting(
    database: URL, _admin: Engine, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ForgettingScenario]:
    monkeypatch.setattr("spotify_pipeline.defs.instance.purge.GRACE", GRACE)
    with ExitStack() as opened:
        dagster_database = opened.enter_context(temporary_database(_admin, "template0"))
        environ = {
            "SPOTIFY_PIPELINE_DATABASE_URL": database.render_as_string(hide_password=False),
            "SPOTIFY_PIPELINE_TOKEN_KEYS": new_key()[1],
            **dagster_environment(dagster_database, tmp_path),
        }
        case = opened.enter_context(open_crash_scenario(environ, seed))
        environ = {**environ, **case.scenario.simulator.environment, **UNLIMITED}
        set_environment(monkeypatch, environ)
        instance = opened.enter_context(opened_instance(load_settings()))
        forgetting = ForgettingScenario(
            case, instance, environ, (database, dagster_database), tmp_path
        )
        for user_id in case.zones:
            sync_user(instance, user_id)
        yield forgetting
        for worker in forgetting.workers:
            worker.close()


@pytest.mark.timeout(1800)
def test_users_forgotten_while_syncs_and_purges_crash_are_named_nowhere(
    forgetting: ForgettingScenario, scale: Scale, rng: Random, figure: Callable[[str], None]
) -> None:
    listened = forgetting.days_of_others()
    assert listened.keys() == forgetting.case.zones.keys()
    for number in range(scale.forgets):
        user_id = f"{MARKER}-{number}"
        forgetting.case.scenario.connect(user_id, seed=number)
        forgetting.reconcile()
        forgetting.sync(user_id)
        Event().wait(rng.uniform(0, LONGEST_WAIT))
        forgetting.case.scenario.forget(user_id)
        forgetting.reconcile(crash_after=rng.randrange(60))
        forgetting.end_syncs(rng)
        forgetting.reconcile(crash_after=rng.randrange(60))
    deadline = monotonic() + 60
    while any(row["user_id"] for row in forgetting.case.scenario.rows(t.forgotten)):
        assert monotonic() < deadline
        forgetting.reconcile()
    receipts = forgetting.case.scenario.rows(t.forgotten)
    figure(
        f"{scale.forgets} users forgotten while they were synced, "
        f"{forgetting.kills} workers killed, "
        f"{forgetting.crashes} purges crashed: "
        f"named in {forgetting.naming() or 'no row and no file'}"
    )
    assert forgetting.naming() == {}
    assert [receipt["user_id"] for receipt in receipts] == [None] * scale.forgets
    kept = forgetting.days_of_others()
    assert {user_id: kept[user_id] & dates for user_id, dates in listened.items()} == listened
    assert sorted(forgetting.instance.get_dynamic_partitions("spotify_users")) == sorted(
        forgetting.case.zones
    )
