"""With a real code server, webserver and daemon: a request, and one run per user."""

import json
import subprocess
import sys

import dagster as dg
import psutil
import pytest
from sqlalchemy import text

from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.database import open_dagster_engine
from spotify_pipeline_tests.defs.dagster_cluster import SECONDS, DagsterCluster, kill_tree
from spotify_pipeline_tests.defs.definitions_fixture import materialized

pytestmark = pytest.mark.xdist_group("daemon")


def test_a_queued_request_is_synced_and_materialized(cluster: DagsterCluster) -> None:
    cluster.connect("anna")
    cluster.ask("anna")
    cluster.await_status("anna", "succeeded", "failed")
    request = cluster.request("anna")
    assert (request["status"], request["error_code"]) == ("succeeded", None)
    assert len(cluster.scenario.rows(t.plays, "anna")) == 50
    cluster.stack.wait(SECONDS, lambda: cluster.runs("anna")[0].end_time is not None, "the run")
    (record,) = cluster.runs("anna")
    assert record.dagster_run.run_id == request["run_id"]
    assert record.dagster_run.tags["spotify/trigger"] == "request"
    assert {user_id for _, user_id in materialized(cluster.instance)} == {"anna"}
    assert "anna" in cluster.instance.get_dynamic_partitions("spotify_users")


def test_a_user_has_one_run_at_a_time(cluster: DagsterCluster) -> None:
    cluster.connect("cleo")
    cluster.instance.add_dynamic_partitions("spotify_users", ["cleo"])
    cluster.scenario.simulator.add_fault(Latency(1), endpoint="recently_played", user_id="cleo")
    ids = {cluster.launch("cleo") for _ in range(2)}
    cluster.stack.wait(
        SECONDS,
        lambda: all(record.end_time is not None for record in cluster.runs("cleo")),
        "two runs of Cleo",
    )
    first, second = sorted(cluster.runs("cleo"), key=lambda record: record.start_time or 0)
    assert {record.dagster_run.run_id for record in (first, second)} == ids
    assert {record.dagster_run.status for record in (first, second)} == {
        dg.DagsterRunStatus.SUCCESS
    }
    assert first.end_time is not None
    assert second.start_time is not None
    assert first.end_time <= second.start_time


def test_healthy_sees_a_daemon_that_died_a_minute_ago_and_its_successor(
    cluster: DagsterCluster,
) -> None:
    def code() -> int:
        command = [sys.executable, "-m", "spotify_pipeline.cli.main", "healthy", "--json"]
        done = subprocess.run(
            [*command, "--only", "daemon"], capture_output=True, text=True, check=False
        )
        assert json.loads(done.stdout)[0]["part"] == "daemon"
        return done.returncode

    cluster.stack.wait(SECONDS, lambda: code() == 0, "the first heartbeat")
    (daemon,) = (child for child in cluster.stack.children if child.name == "daemon")
    kill_tree(psutil.Process(daemon.pid))
    daemon.process.join()
    engine = open_dagster_engine(load_settings())
    with engine.begin() as conn:
        # A minute passes.
        minute_ago = "timestamp = timestamp - interval '61 seconds'"
        conn.execute(text(f"UPDATE daemon_heartbeats SET {minute_ago}"))
    engine.dispose()
    assert code() == 1
    cluster.start_again(daemon)
    cluster.stack.wait(SECONDS, lambda: code() == 0, "the heartbeat of another daemon")
