"""With a real code server, webserver and daemon: requests, killed workers, one run per user."""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import requests
from sqlalchemy import Engine

from spotify_pipeline.cli.stack import Stack, free_port, running_stack
from spotify_pipeline.defs.running import opened_instance
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.simulator.process import running_simulator
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.defs.conftest import dagster_environment, set_environment
from spotify_pipeline_tests.defs.staging import materialized
from spotify_pipeline_tests.sync.stage import Stage, environment, open_stage

pytestmark = pytest.mark.xdist_group("daemon")

SECONDS = 60


@dataclass
class Theatre:
    """A stage, and the running processes around it."""

    stage: Stage
    stack: Stack
    instance: dg.DagsterInstance

    def connect(self, user_id: str) -> None:
        """A listener who lives now."""
        since = (datetime.now(UTC) - timedelta(days=3)).date()
        self.stage.connect(user_id, since=since)

    def ask(self, user_id: str) -> None:
        """The person presses Sync."""
        self.stage.execute(
            "INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u)", u=user_id
        )

    def request(self, user_id: str) -> dict[str, object]:
        """Their latest request."""
        return self.stage.rows(t.sync_requests, user_id)[-1]

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
            "selector": {
                "repositoryLocationName": "spotify_pipeline",
                "repositoryName": "__repository__",
                "jobName": "sync_user",
            },
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": user_id}]},
        }
        answer = requests.post(
            f"{self.stack.url}/graphql",
            json={"query": mutation, "variables": {"params": params}},
            timeout=30,
        ).json()
        run_id: str = answer["data"]["launchRun"]["run"]["runId"]
        return run_id

    def runs(self, user_id: str) -> list[dg.RunRecord]:
        """All runs of a user's partition, oldest first."""
        of_user = dg.RunsFilter(tags={"dagster/partition": user_id})
        return list(self.instance.get_run_records(of_user, ascending=True))


@pytest.fixture(scope="module")
def theatre(
    _admin: Engine, _template: str, dagster_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Theatre]:
    home = tmp_path_factory.mktemp("home")
    with (
        temporary_database(_admin, _template) as ours,
        temporary_database(_admin, dagster_template) as dagsters,
        running_simulator() as simulator,
        pytest.MonkeyPatch.context() as patch,
    ):
        environ = environment(ours, simulator) | dagster_environment(dagsters, home)
        set_environment(patch, environ)
        settings = load_settings()
        # Away from the ports of people who use this machine, and of other tests.
        port = free_port(None, first=10_000 + 50 * (os.getpid() % 100))
        with (
            open_stage(simulator, environ) as stage,
            running_stack(settings, port) as stack,
            opened_instance(settings) as instance,
        ):
            yield Theatre(stage, stack, instance)


def test_a_row_in_the_queue_is_served_and_shown_in_the_graph(theatre: Theatre) -> None:
    theatre.connect("anna")
    theatre.ask("anna")
    theatre.await_status("anna", "succeeded", "failed")
    request = theatre.request("anna")
    assert (request["status"], request["error_code"]) == ("succeeded", None)
    assert len(theatre.stage.rows(t.plays, "anna")) == 50
    theatre.stack.wait(SECONDS, lambda: theatre.runs("anna")[0].end_time is not None, "the run")
    (record,) = theatre.runs("anna")
    assert record.dagster_run.run_id == request["run_id"]
    assert record.dagster_run.tags["spotify/trigger"] == "request"
    assert {user_id for _, user_id in materialized(theatre.instance)} == {"anna"}
    assert "anna" in theatre.instance.get_dynamic_partitions("spotify_users")


def test_a_user_has_one_run_at_a_time(theatre: Theatre) -> None:
    theatre.connect("cleo")
    theatre.instance.add_dynamic_partitions("spotify_users", ["cleo"])
    theatre.stage.simulator.add_fault(Latency(1), endpoint="recently_played", user_id="cleo")
    ids = {theatre.launch("cleo") for _ in range(2)}
    theatre.stack.wait(
        SECONDS,
        lambda: all(record.end_time is not None for record in theatre.runs("cleo")),
        "two runs of Cleo",
    )
    first, second = sorted(theatre.runs("cleo"), key=lambda record: record.start_time or 0)
    assert {record.dagster_run.run_id for record in (first, second)} == ids
    assert {record.dagster_run.status for record in (first, second)} == {
        dg.DagsterRunStatus.SUCCESS
    }
    assert first.end_time is not None
    assert second.start_time is not None
    assert first.end_time <= second.start_time


def test_a_killed_run_worker_neither_leaves_its_request_open_nor_blocks_its_user(
    theatre: Theatre,
) -> None:
    simulator = theatre.stage.simulator
    theatre.connect("ben")
    fault = simulator.add_fault(Latency(60), endpoint="recently_played", user_id="ben", times=1)
    theatre.ask("ben")
    theatre.stack.wait(SECONDS, lambda: bool(theatre.stage.calls("token", "ben")), "Ben's run")
    (record,) = theatre.runs("ben")
    os.kill(pid_of(theatre.instance, record.dagster_run.run_id), signal.SIGKILL)
    simulator.clear_faults(fault)
    assert theatre.stage.rows(t.plays, "ben") == []
    # The lease of the dead worker runs out by itself; here it does so at once.
    theatre.stage.execute(
        "UPDATE spotify_pipeline.sync_state SET lease_until = lease_until - interval '30 s'"
        " WHERE user_id = 'ben'"
    )
    theatre.await_status("ben", "succeeded", "failed")
    request = theatre.request("ben")
    assert (request["status"], request["error_code"]) in [
        ("succeeded", None),
        ("failed", "CRASHED"),
    ]
    theatre.stack.wait(
        SECONDS,
        lambda: len(theatre.stage.rows(t.plays, "ben")) == 50,
        "Ben's next sync",
    )
    assert record.dagster_run.status is dg.DagsterRunStatus.STARTED
    dead = theatre.instance.get_run_by_id(record.dagster_run.run_id)
    assert dead is not None
    assert dead.status is dg.DagsterRunStatus.FAILURE


def pid_of(instance: dg.DagsterInstance, run_id: str) -> int:
    """The process that works on a run, as its first event tells."""
    for entry in instance.all_logs(run_id):
        if found := re.search(r"process for run \(pid: (\d+)\)", entry.message):
            return int(found[1])
    raise AssertionError("no event tells the process")
