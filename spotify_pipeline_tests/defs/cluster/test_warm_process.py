"""Runs forked from the warm process: what they inherit, and what its death means for them."""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection

import psutil
import pytest

from spotify_pipeline.cli.local.dagster_processes import CODE_SERVER, Log
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.defs.dagster_cluster import (
    DagsterCluster,
    kill_tree,
    midway,
    pid_of,
)

pytestmark = pytest.mark.xdist_group("daemon")

SOAK = os.environ.get("SOAK") == "1"


def execute(command: Sequence[str], environ: dict[str, str], log: Connection) -> None:
    """Becomes `python -m COMMAND`."""
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    os.execve(sys.executable, [sys.executable, "-m", *command], environ)


@pytest.fixture
def served(cluster: DagsterCluster) -> DagsterCluster:
    """With a code server as `serve` starts it: a process of its own, with its own warm process."""
    (old,) = (child for child in cluster.stack.children if child.name == CODE_SERVER)
    if "forkserver" not in " ".join(psutil.Process(old.pid).cmdline()):
        return cluster
    kill_tree(psutil.Process(old.pid))
    old.process.join()
    # It writes to our log, as to that of a supervisor.
    log = Log.opened(old.log.path)
    arguments = (old.command, {**os.environ, **old.environ}, Connection(os.dup(log.pipe.fileno())))
    process = get_context("spawn").Process(target=execute, args=arguments)
    process.start()
    log.pipe.close()
    new = replace(old, process=process)
    children = [new if child is old else child for child in cluster.stack.children]
    cluster.stack = replace(cluster.stack, children=tuple(children))
    return cluster


@pytest.mark.parametrize("user_id", ["mia", "noa"], ids=["dev", "serve"])
def test_a_forked_run_inherits_no_thread_connection_or_file(
    cluster: DagsterCluster, user_id: str, request: pytest.FixtureRequest
) -> None:
    if user_id == "noa":
        request.getfixturevalue("served")
    mia = midway(cluster, user_id)
    warm = cluster.warm_process()
    assert psutil.Process(pid_of(cluster.instance, mia.run_id)).ppid() == warm.pid
    # Only a process with one thread may fork; a connection that two processes use is broken.
    assert warm.num_threads() == 1
    assert warm.net_connections("inet") == []
    assert warm.open_files() == []
    cluster.scenario.simulator.clear_faults()
    assert mia.ends()[0] == "succeeded"


def test_a_run_dies_with_the_warm_process_and_the_next_attempt_answers(
    served: DagsterCluster,
) -> None:
    nora = midway(served, "nora")
    run = psutil.Process(pid_of(served.instance, nora.run_id))
    first = served.warm_process()
    os.kill(first.pid, signal.SIGKILL)
    # Otherwise it would continue to work although its run counts as failed.
    served.await_end(run)
    nora.assert_retried()
    assert served.warm_process().pid != first.pid


@pytest.mark.skipif(not SOAK, reason="in make soak")
@pytest.mark.timeout(3600)
def test_the_warm_process_is_killed_again_and_again(served: DagsterCluster) -> None:
    kills, seed = 50, random.randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    served.scenario.execute("UPDATE spotify_pipeline.settings SET request_cooldown = '0'")
    users = ["otto", "paula", "rosa"]
    for user_id in users:
        served.connect(user_id)
    asked = Counter[str]()

    # Otherwise a failed request keeps the user waiting for minutes.
    long_ago = (
        "UPDATE spotify_pipeline.sync_requests SET requested_at = requested_at - interval '1 day',"
        " started_at = started_at - interval '1 day', finished_at = finished_at - interval '1 day'"
        " WHERE status = 'failed' AND user_id = :u"
    )

    def ask_again(user_id: str) -> None:
        served.scenario.execute(long_ago, u=user_id)
        if not asked[user_id] or served.request(user_id)["status"] in ("succeeded", "failed"):
            served.ask(user_id)
            asked[user_id] += 1

    for _ in range(kills):
        for user_id in users:
            ask_again(user_id)
        time.sleep(moments.uniform(0, 8))
        os.kill(served.warm_process().pid, signal.SIGKILL)
    for user_id in users:
        served.await_status(user_id, "succeeded", "failed")
        ask_again(user_id)
    for user_id in users:
        served.await_status(user_id, "succeeded")
        rows = served.scenario.rows(t.sync_requests, user_id)
        assert len(rows) == asked[user_id]
        # Only a request of which three runs were killed has failed.
        ends = {(row["error_code"], row["attempts"]) for row in rows if row["status"] == "failed"}
        assert ends <= {("CRASHED", 3)}
        print(user_id, Counter(row["status"] for row in rows))
        # One run per attempt, and the last one has answered.
        runs = {record.dagster_run.run_id for record in served.runs(user_id)}
        assert len(runs) == sum(int(row["attempts"]) for row in rows)
        assert {row["run_id"] for row in rows if row["status"] == "succeeded"} <= runs
        plays = served.scenario.rows(t.plays, user_id)
        # The ledger leaves out what ended at its first instant.
        first = min(row["played_at"] for row in plays) - timedelta(milliseconds=1)
        truth = served.scenario.simulator.ledger(user_id, first)
        # Meanwhile the oldest may have left the page, which is why `visible` is not enough.
        assert len(plays) == len({line.played_at for line in truth if line.served})
