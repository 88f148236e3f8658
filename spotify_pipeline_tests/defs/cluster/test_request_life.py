"""Whatever dies between the INSERT and the answer, a real daemon brings the request to an end."""

import os
import random
import signal
from collections import Counter
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from time import sleep

import dagster as dg
import psutil
import pytest
from sqlalchemy import text

from spotify_pipeline.app import register_user
from spotify_pipeline.cli.local.dagster_processes import StackFailed
from spotify_pipeline.defs.instance.processes.warm_process import STARTED_BY
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.defs.dagster_cluster import (
    SECONDS,
    DagsterCluster,
    Life,
    kill_tree,
    midway,
    pid_of,
)
from spotify_pipeline_tests.sync.imports.export_files import extended_row, hand_over
from spotify_pipeline_tests.sync.pipeline_fixture import NOON

pytestmark = pytest.mark.xdist_group("daemon")

HOUR = timedelta(hours=1)
SOAK = os.environ.get("SOAK") == "1"


def test_the_run_worker_is_killed(cluster: DagsterCluster) -> None:
    anna = midway(cluster, "anna")
    os.kill(pid_of(cluster.instance, anna.run_id), signal.SIGKILL)
    anna.assert_retried()
    # The queue has tried again, and not Dagster too.
    assert len(cluster.runs("anna")) == 2


def test_the_run_is_cancelled_in_the_ui(cluster: DagsterCluster) -> None:
    ben = midway(cluster, "ben")
    cluster.graphql(
        "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }", id=ben.run_id
    )
    assert ben.ends() == ("failed", "CANCELLED", 1)


def test_the_run_is_deleted(cluster: DagsterCluster) -> None:
    cleo = midway(cluster, "cleo")
    cluster.graphql(
        "mutation ($id: String!) { deletePipelineRun(runId: $id) { __typename } }", id=cleo.run_id
    )
    cluster.scenario.simulator.clear_faults()
    status, code, attempts = cleo.ends()
    # Its process may live on for a while: then it is its sync that the next attempt waits for.
    assert (status, code) == ("succeeded", None)
    assert attempts in (1, 2)


def test_postgres_ends_every_session(cluster: DagsterCluster) -> None:
    """As a restart does, seen from its clients; the sessions of this test are spared."""
    dora = midway(cluster, "dora")
    ours = str(cluster.scenario.pipeline.engine.url.database)
    dagsters = os.environ["DAGSTER_PG_URL"].rsplit("/", 1)[-1].split("?")[0]
    for _ in range(3):
        cluster.scenario.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = ANY(:names) AND client_port <> ALL(:spared)",
            names=[ours, dagsters],
            spared=[connection.laddr.port for connection in psutil.Process().net_connections()],
        )
    cluster.scenario.simulator.clear_faults()
    status, code, _ = dora.ends()
    assert (status, code) == ("succeeded", None)


def test_the_code_server_is_killed_and_started_again(cluster: DagsterCluster) -> None:
    emil = midway(cluster, "emil")
    cluster.kill("code server")
    cluster.scenario.simulator.clear_faults()
    status, code, _ = emil.ends()
    assert (status, code) == ("succeeded", None)


def test_the_code_location_is_reloaded_in_the_ui(cluster: DagsterCluster) -> None:
    lea = midway(cluster, "lea")
    cluster.graphql(
        "mutation ($name: String!) {"
        " reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }",
        name="spotify_pipeline",
    )
    cluster.scenario.simulator.clear_faults()
    status, code, _ = lea.ends()
    assert (status, code) == ("succeeded", None)


def test_the_daemon_is_killed_between_tick_and_launch(cluster: DagsterCluster) -> None:
    cluster.connect("fia")
    cluster.ask("fia")
    cluster.stack.wait(
        SECONDS, lambda: cluster.request("fia")["dispatch_key"] is not None, "Fia's key"
    )
    cluster.kill("daemon")
    cluster.await_status("fia", "succeeded", "failed")
    has_one_effect(cluster, "fia", 1)


def has_one_effect(cluster: DagsterCluster, user_id: str, requests: int) -> None:
    """Each of the requests succeeded by one run, which asked Spotify once.

    No other run of it began. A daemon that dies after it has taken a run from the queue and before
    it has started the process leaves a run that never begins: Dagster fails it after a minute, and
    the request's next attempt is its first real one.
    """
    rows = cluster.scenario.rows(t.sync_requests, user_id)
    assert [row["status"] for row in rows] == ["succeeded"] * requests
    runs = cluster.runs(user_id)
    # Without its UUID of 36 characters.
    keys = Counter(record.dagster_run.tags["dagster/run_key"][:-37] for record in runs)
    attempts = [(row["id"], n + 1) for row in rows for n in range(row["attempts"])]
    assert keys == {f"request-{id}-{attempt}": 1 for id, attempt in attempts}
    begun = [record.dagster_run.run_id for record in runs if record.start_time]
    assert begun == [row["run_id"] for row in rows]
    never_begun = [record.dagster_run.tags for record in runs if not record.start_time]
    assert {tags.get("dagster/failure_reason") for tags in never_begun} <= {"START_TIMEOUT"}
    assert len(cluster.scenario.calls("recently_played", user_id)) == requests


@pytest.mark.skipif(not SOAK, reason="in make soak")
@pytest.mark.timeout(3600)
def test_the_daemon_is_killed_again_and_again(cluster: DagsterCluster) -> None:
    """At random moments between a tick and the next but one."""
    kills, seed = 50, random.randrange(10**6)
    print(f"seed {seed}")
    moments, asked = random.Random(seed), Counter[str]()
    cluster.scenario.execute("UPDATE spotify_pipeline.settings SET request_cooldown = '0'")
    users = ["gus", "hanna", "ida"]
    for user_id in users:
        cluster.connect(user_id)
    for _ in range(kills):
        for user_id in users:
            if not asked[user_id] or cluster.request(user_id)["status"] == "succeeded":
                cluster.ask(user_id)
                asked[user_id] += 1
        sleep(moments.uniform(0, 10))
        cluster.kill("daemon")
    for user_id in users:
        cluster.await_status(user_id, "succeeded", "failed")
        has_one_effect(cluster, user_id, asked[user_id])


def test_a_run_for_many_is_killed(cluster: DagsterCluster) -> None:
    users = [f"many{n}" for n in range(6)]
    for user_id in users:
        cluster.connect(user_id)
    cluster.scenario.simulator.add_fault(
        Latency(60), endpoint="recently_played", user_id="many3", times=1
    )
    cluster.ask(*users)
    cluster.stack.wait(SECONDS, lambda: bool(cluster.scenario.calls("token", "many3")), "the chunk")
    (run_id,) = {cluster.request(user_id)["run_id"] for user_id in users}
    run = cluster.instance.get_run_by_id(str(run_id))
    assert run is not None
    assert "many" not in f"{run.tags} {run.run_config}"
    process = psutil.Process(pid_of(cluster.instance, run.run_id))
    # Its steps are forked from the warm process, like the run itself, and import nothing.
    warm = process.parent()
    assert warm is not None
    others = {process.pid, *(child.pid for child in cluster.stack.children)}
    steps = [child for child in warm.children() if child.pid not in others]
    assert (process.children(), len(steps)) == ([], 1)
    kill_tree(process, *steps)
    lives = [Life(cluster, user_id, run.run_id) for user_id in users]
    assert [life.ends() for life in lives] == [("succeeded", None, 2)] * len(users)
    assert len({life.request["run_id"] for life in lives}) == 1


def test_a_request_is_answered_while_the_next_run_of_a_flood_waits_for_the_first(
    cluster: DagsterCluster,
) -> None:
    first = cluster.instance.create_run_for_job(
        dg.GraphDefinition("flood").to_job(),
        status=dg.DagsterRunStatus.STARTED,
        tags={"spotify/requests": "many"},
    )
    # They have no token and need no call.
    flood = [f"flood{n}" for n in range(51)]
    cluster.scenario.execute(
        "INSERT INTO spotify_pipeline.users (user_id, connection)"
        " SELECT unnest(CAST(:u AS text[])), 'connected'",
        u=flood,
    )
    cluster.connect("kim")
    cluster.ask(*flood)
    queued = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
    cluster.stack.wait(SECONDS, lambda: bool(cluster.instance.get_runs(queued)), "the next run")
    cluster.ask("kim")
    cluster.await_status("kim", "succeeded")
    assert {cluster.request(user_id)["status"] for user_id in flood} == {"queued"}
    cluster.instance.report_run_canceled(first)
    for user_id in flood:
        cluster.await_status(user_id, "failed")
        assert cluster.request(user_id)["error_code"] == "RECONNECT"


def test_the_whole_process_tree_is_killed(
    cluster: DagsterCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_again_and_again() -> None:
        while True:
            cluster.stack.check()

    jan = midway(cluster, "jan")
    worker = psutil.Process(pid_of(cluster.instance, jan.run_id))
    # Its runs are not below the code server, but below what both were forked from.
    warm = cluster.warm_process()
    warm.kill()
    with pytest.raises(StackFailed, match="from which all others are forked was killed"):
        check_again_and_again()
    # Until it has ended it would be asked to fork. multiprocessing reaps it.
    os.waitid(os.P_PID, warm.pid, os.WEXITED | os.WNOWAIT)
    # What is started again is forked from a new one, which is below this process, too.
    monkeypatch.delattr(forkserver._forkserver, "ensure_running")
    monkeypatch.setenv(STARTED_BY, str(os.getpid()))
    cluster.kill("code server", "webserver", "daemon")
    cluster.await_end(worker)
    jan.assert_retried()


@pytest.mark.skipif(not SOAK, reason="in make soak")
@pytest.mark.parametrize(
    ("user_id", "table", "status"),
    [("olga", "tracks", "closed"), ("pete", "daily_listening", "succeeded")],
    ids=["before the merge", "after it"],
)
def test_the_run_that_imports_an_upload_is_killed(
    cluster: DagsterCluster, tmp_path: Path, user_id: str, table: str, status: str
) -> None:
    scenario, rows = cluster.scenario, [extended_row(NOON - n * HOUR, n) for n in range(1, 8)]
    of_import = dg.RunsFilter(job_name="import_history", tags={"dagster/partition": user_id})
    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = CAST(:t AS regclass)"
    )
    with scenario.pipeline.engine.begin() as conn:
        register_user(conn, user_id)
    with scenario.pipeline.engine.connect() as blocker:
        blocker.execute(text(f"LOCK TABLE spotify_pipeline.{table} IN SHARE MODE"))
        hand_over(scenario.pipeline, tmp_path, rows, user=user_id)
        named = {"t": f"spotify_pipeline.{table}"}
        cluster.stack.wait(SECONDS, lambda: bool(blocker.scalar(waiting, named)), "the import")
        (run,) = cluster.instance.get_runs(of_import)
        os.kill(pid_of(cluster.instance, run.run_id), signal.SIGKILL)
        # Its lease ends by itself, half a minute later.
        scenario.execute(
            "UPDATE spotify_pipeline.sync_state SET lease_id = NULL, lease_until = NULL"
            " WHERE user_id = :u",
            u=user_id,
        )
    assert scenario.row(t.history_imports, user_id)["status"] == status

    def reported() -> bool:
        done = [run.status for run in cluster.instance.get_runs(of_import)]
        return done.count(dg.DagsterRunStatus.SUCCESS) == 1

    cluster.stack.wait(SECONDS, reported, "the second run")
    assert scenario.row(t.history_imports, user_id)["status"] == "succeeded"
    assert len(scenario.rows(t.plays, user_id)) == len(rows)
    assert sum(scenario.minutes(user_id).values()) == 3 * len(rows)
    assert len(cluster.instance.get_runs(of_import)) == 2
