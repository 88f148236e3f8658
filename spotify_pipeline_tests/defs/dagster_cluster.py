"""A real code server, webserver and daemon around a scenario, and ways to kill them."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import requests
from sqlalchemy import URL, Engine
from sqlalchemy.exc import OperationalError

from spotify_pipeline.cli.local.dagster_processes import (
    CODE_SERVER,
    Child,
    Log,
    Stack,
    free_port,
    running_stack,
)
from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.settings import load_settings, variables
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario, environment, open_scenario

# A limit for a busy machine; waits end as soon as their condition holds.
SECONDS = 120

REPOSITORY = {
    "repositoryLocationName": "spotify_pipeline",
    "repositoryName": "__repository__",
}


@dataclass
class DagsterCluster:
    """A scenario, and the running processes around it."""

    scenario: Scenario
    stack: Stack
    instance: dg.DagsterInstance

    def connect(self, user_id: str) -> None:
        """Connects a simulated listener who plays until now."""
        since = (datetime.now(UTC) - timedelta(days=3)).date()
        self.scenario.connect(user_id, since=since)

    def ask(self, *user_ids: str) -> None:
        """These users press Sync at once."""
        self.scenario.execute(
            "INSERT INTO spotify_pipeline.sync_requests (user_id)"
            " SELECT unnest(CAST(:u AS text[]))",
            u=list(user_ids),
        )

    def request(self, user_id: str) -> dict[str, object]:
        """The user's latest request."""
        return self.scenario.rows(t.sync_requests, user_id)[-1]

    def await_status(self, user_id: str, *statuses: str) -> None:
        """Returns when the request has one of these states."""
        self.stack.wait(
            SECONDS, lambda: self.request(user_id)["status"] in statuses, f"{user_id}'s request"
        )

    def launch(self, user_id: str) -> str:
        """Materializes a user in the UI; the run's id."""
        mutation = """
            mutation ($params: ExecutionParams!) {
              launchRun(executionParams: $params) {
                __typename ... on LaunchRunSuccess { run { runId } }
              }
            }"""
        params = {
            "selector": REPOSITORY | {"jobName": "sync_user"},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": user_id}]},
        }
        answer = self.graphql(mutation, params=params)
        run_id: str = answer["launchRun"]["run"]["runId"]
        return run_id

    def runs(self, user_id: str) -> list[dg.RunRecord]:
        """All runs of a user's partition, oldest first."""
        of_user = dg.RunsFilter(tags={"dagster/partition": user_id})
        return list(self.instance.get_run_records(of_user, ascending=True))

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        """Sends a GraphQL query, as the UI does."""
        return graphql(self.stack, query, **variables)

    def start_schedule(self, name: str) -> None:
        """Turns a schedule on again."""
        mutation = """
            mutation ($schedule: ScheduleSelector!) {
              startSchedule(scheduleSelector: $schedule) { __typename }
            }"""
        self.graphql(mutation, schedule=REPOSITORY | {"scheduleName": name})

    def kill(self, *names: str) -> None:
        """SIGKILL to these processes and all below them; new ones start at once."""
        killed = [child for child in self.stack.children if child.name in names]
        kill_tree(*(psutil.Process(child.pid) for child in killed))
        for child in killed:
            child.process.join()
            self.start_again(child)

    def warm_process(self) -> psutil.Process:
        """What the code server forks runs from: its own process, or that of the whole stack."""
        (server,) = (child for child in self.stack.children if child.name == CODE_SERVER)
        process = psutil.Process(server.pid)

        def is_forkserver(process: psutil.Process) -> bool:
            # Of a process that was just killed a zombie may be left.
            with suppress(psutil.NoSuchProcess):
                return "forkserver" in " ".join(process.cmdline())
            return False

        def found() -> list[psutil.Process]:
            parent = process.parent() if is_forkserver(process) else None
            return [parent] if parent else [*filter(is_forkserver, process.children())]

        self.stack.wait(SECONDS, lambda: bool(found()), "a warm process")
        (only,) = found()
        return only

    def await_end(self, process: psutil.Process) -> None:
        """Returns when this process has ended, even if its parent has not reaped it yet."""
        self.stack.wait(
            SECONDS,
            lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE,
            f"the end of process {process.pid}",
        )

    def start_again(self, old: Child) -> None:
        """Starts a process that was killed."""
        log = Log.opened(old.log.path)
        new = Child.started(old.name, old.command, old.environ, log)
        children = tuple(new if child is old else child for child in self.stack.children)
        self.stack = replace(self.stack, children=children)

    def stop(self) -> None:
        """Ends the processes, restarted ones included."""
        for child in self.stack.children:
            child.process.kill()
            child.process.join()


@dataclass
class Life:
    """A user whose request this run is working on."""

    cluster: DagsterCluster
    user_id: str
    run_id: str

    @property
    def request(self) -> dict[str, object]:
        return self.cluster.request(self.user_id)

    def until(self, done: Callable[[], bool], what: str) -> None:
        self.cluster.stack.wait(SECONDS, done, f"{self.user_id}: {what}")

    def let_time_pass(self) -> None:
        """The leases of the dead run out, and the pauses before the next attempts are over."""
        self.cluster.scenario.execute(
            "WITH paused AS (UPDATE spotify_pipeline.sync_requests SET not_before = now()"
            " WHERE status = 'queued' AND not_before > now() RETURNING user_id)"
            " UPDATE spotify_pipeline.sync_state SET lease_until = least(lease_until, now())"
            " WHERE lease_id IS NOT NULL AND user_id IN (SELECT user_id FROM paused)"
        )

    def ends(self) -> tuple[object, object, object]:
        """Status, code and attempts, once it has ended."""

        def ended() -> bool:
            # Postgres itself may be what died.
            with suppress(OperationalError):
                self.let_time_pass()
                return self.request["status"] in ("succeeded", "failed")
            return False

        self.until(ended, "the end")
        row = self.request
        return row["status"], row["error_code"], row["attempts"]

    def assert_retried(self) -> None:
        """The killed run stored nothing and failed; the second attempt stored every play."""
        scenario = self.cluster.scenario
        assert scenario.rows(t.plays, self.user_id) == []
        assert self.ends() == ("succeeded", None, 2)
        assert len(scenario.rows(t.plays, self.user_id)) == 50
        dead = self.cluster.instance.get_run_by_id(self.run_id)
        assert dead is not None
        assert dead.status is dg.DagsterRunStatus.FAILURE


def midway(cluster: DagsterCluster, user_id: str) -> Life:
    """A user with a request whose run waits for Spotify's response for a minute."""
    cluster.connect(user_id)
    cluster.scenario.simulator.add_fault(
        Latency(60), endpoint="recently_played", user_id=user_id, times=1
    )
    cluster.ask(user_id)
    cluster.stack.wait(SECONDS, lambda: bool(cluster.scenario.calls("token", user_id)), "the run")
    return Life(cluster, user_id, str(cluster.request(user_id)["run_id"]))


def graphql(stack: Stack, query: str, **variables: object) -> dict[str, Any]:
    """Sends a GraphQL query, as the UI does."""
    answer = requests.post(
        f"{stack.url}/graphql", json={"query": query, "variables": variables}, timeout=60
    ).json()
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    return data


def stop_schedules(stack: Stack) -> None:
    """Turns all schedules off: at a quarter to, a poll would sync the users of a test."""
    listed = """
        query ($repository: RepositorySelector!) {
          schedulesOrError(repositorySelector: $repository) {
            ... on Schedules { results { scheduleState { id } } }
          }
        }"""
    stop = "mutation ($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
    schedules = graphql(stack, listed, repository=REPOSITORY)["schedulesOrError"]["results"]
    for schedule in schedules:
        answer = graphql(stack, stop, id=schedule["scheduleState"]["id"])
        assert answer["stopRunningSchedule"]["__typename"] == "ScheduleStateResult", answer


def kill_tree(*processes: psutil.Process) -> None:
    """SIGKILL to these processes and all below them."""
    below = [child for process in processes for child in process.children(recursive=True)]
    for victim in [*processes, *below]:
        with suppress(psutil.NoSuchProcess):
            victim.kill()


@contextmanager
def open_cluster(admin: Engine, ours: str, dagsters: str, home: Path) -> Iterator[DagsterCluster]:
    """Everything that runs, on copies of these two template databases."""
    with (
        temporary_database(admin, ours) as database,
        temporary_database(admin, dagsters) as dagster_database,
        running_simulator() as simulator,
        pytest.MonkeyPatch.context() as patch,
    ):
        environ = environment(database, simulator) | dagster_environment(dagster_database, home)
        set_environment(patch, environ)
        settings = load_settings()
        # Away from the default ports, and from those of other tests.
        port = free_port(None, first=10_000 + 50 * (os.getpid() % 100))
        with (
            open_scenario(simulator, environ) as scenario,
            running_stack(settings, port) as stack,
            opened_instance(settings) as instance,
        ):
            cluster = DagsterCluster(scenario, stack, instance)
            try:
                stop_schedules(stack)
                yield cluster
            finally:
                cluster.stop()


def dagster_environment(dagster_database: URL, home: Path) -> dict[str, str]:
    """Where Dagster keeps its things."""
    url = dagster_database.render_as_string(hide_password=False)
    return {"DAGSTER_PG_URL": url, "SPOTIFY_PIPELINE_HOME": str(home)}


def set_environment(patch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    """Sets these variables, and none of the project's but these."""
    for name in variables():
        patch.delenv(name, raising=False)
    for name, value in environ.items():
        patch.setenv(name, value)
    # opened_instance sets it; the patch sets it back.
    patch.setenv("DAGSTER_HOME", os.environ.get("DAGSTER_HOME", ""))


def pid_of(instance: dg.DagsterInstance, run_id: str) -> int:
    """The process id of a run, from its first event."""
    for entry in instance.all_logs(run_id):
        if found := re.search(r"process for run \(pid: (\d+)\)", entry.message):
            return int(found[1])
    raise AssertionError("no event names the process")
