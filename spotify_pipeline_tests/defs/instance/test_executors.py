"""The chunks of sync_users in processes of their own: what happens when one is killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from spotify_pipeline.cli.local.dagster_processes import free_port
from spotify_pipeline.defs.build import build_defs
from spotify_pipeline.defs.instance import executors
from spotify_pipeline.settings import ConfigurationError
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.defs.definitions_fixture import materialized
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

SECONDS = 120

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(autouse=True)
def own_forkserver() -> Iterator[None]:
    """Workers have the environment of the server that forks them, which lives as long as pytest."""
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()


def sync_users() -> dg.JobDefinition:
    """The job as the environment configures it; other processes make it anew."""
    return build_defs().resolve_job_def("sync_users")


def run(instance: dg.DagsterInstance, size: int) -> dg.JobExecutionResult:
    """A real run, with the executor of the job."""
    config = {
        "ops": {"choose_users": {"config": {"selection": "eligible", "chunk_size": size}}},
        "execution": {"config": {"workers": 2}},
    }
    job = dg.reconstructable(sync_users)
    return dg.execute_job(job, instance, run_config=config, raise_on_error=False)


def wait(done: Callable[[], object], what: str) -> None:
    """Returns when it is done."""
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Something else happens while the block works."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(SECONDS)
    assert errors == []


def process_of(instance: dg.DagsterInstance, step: str) -> int | None:
    """The process id of a step, from its event; None: there is no such event yet."""
    (record,) = instance.get_runs(limit=1)
    for entry in instance.all_logs(record.run_id):
        event = entry.dagster_event
        started = dg.DagsterEventType.STEP_WORKER_STARTED
        if event and event.step_key == step and event.event_type is started:
            data: Any = event.event_specific_data
            return int(data.metadata["pid"].value)
    return None


def end_leases(scenario: Scenario, *user_ids: str) -> None:
    """The leases that the dead held run out by themselves; here they do so at once."""
    scenario.execute(
        "UPDATE spotify_pipeline.sync_state SET lease_until = lease_until - interval '30 s'"
        " WHERE user_id = ANY(:dead)",
        dead=list(user_ids),
    )


def test_a_killed_chunk_is_tried_again_and_nothing_is_lost_or_doubled(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    names = ("anna", "ben", "cleo", "dora")
    for name in names:
        scenario.connect(name, kind="light")
    scenario.simulator.add_fault(Latency(60), endpoint="recently_played", user_id="cleo", times=1)

    def kill() -> None:
        wait(lambda: scenario.calls("token", "cleo"), "the chunk of Cleo")
        # The step calls Spotify before the run's process stores the event in Dagster.
        wait(lambda: process_of(instance, "sync_chunk[1]"), "the process of the chunk")
        pid = process_of(instance, "sync_chunk[1]")
        assert pid
        os.kill(pid, signal.SIGKILL)
        end_leases(scenario, "cleo", "dora")

    with meanwhile(kill), run(instance, size=2) as result:
        assert result.success
    tries = {row["chunk"]: row["tries"] for row in scenario.rows(t.sync_run_chunks)}
    assert tries == {0: 1, 1: 2}
    assert {row["outcome"] for row in scenario.rows(t.sync_run_users)} == {"synced"}
    events = Counter(event.event_type for event in result.all_events)
    assert events[dg.DagsterEventType.STEP_UP_FOR_RETRY] == 1
    assert {user_id for _, user_id in materialized(instance)} == set(names)
    stored = Counter(row["user_id"] for row in scenario.rows(t.plays))
    assert stored == Counter({name: len(visible(scenario, name)) for name in names})
    # The chunk that was not killed was not asked for again.
    assert len(scenario.calls("recently_played", "anna")) == 1


def test_all_that_steps_find_loaded_exists() -> None:
    # The server that forks them passes over a name that is gone, and every step is slower.
    assert all(find_spec(name) for name in executors.PRELOADED)


def test_celery_without_its_extra_or_broker_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPOTIFY_PIPELINE_EXECUTOR", "celery")
    with pytest.raises(ConfigurationError, match="SPOTIFY_PIPELINE_BROKER_URL is not set"):
        build_defs()
    monkeypatch.setenv("SPOTIFY_PIPELINE_BROKER_URL", "redis://:password@broker/0")
    build_defs()
    monkeypatch.setattr(executors, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"needs the extra \[celery\]") as raised:
        build_defs()
    assert "password" not in str(raised.value)


@contextmanager
def redis(port: int, directory: Path) -> Iterator[str]:
    """A broker on this machine; its address."""
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(directory)], stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def start_worker(name: str, directory: Path) -> "subprocess.Popen[bytes]":
    """A Celery worker with one process for chunks, in a group of its own."""
    celery = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "spotify_pipeline.defs.instance.celery_app",
        "worker",
    ]
    options = ["-Q", "dagster", "-c", "1", "-n", f"{name}@%h", "-l", "INFO"]
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.Popen([*celery, *options], stdout=log, stderr=log, process_group=0)


def stop(worker: "subprocess.Popen[bytes]") -> None:
    """Without a chance to say goodbye: the worker and the process of its chunk."""
    if worker.poll() is None:
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


@pytest.mark.skipif(os.environ.get("SOAK") != "1", reason="takes a minute: SOAK=1")
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_two_celery_workers_share_a_run_and_the_death_of_one_costs_only_time(
    scenario: Scenario,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    pytest.importorskip("dagster_celery")
    names = [f"user-{number:02}" for number in range(60)]
    for name in names:
        scenario.connect(name, kind="light")
    # The chunk of user-25 is in the worker's hands when it is killed.
    scenario.simulator.add_fault(
        Latency(40), endpoint="recently_played", user_id=names[25], times=1
    )
    port = free_port(None, first=17_000 + 50 * (os.getpid() % 100))
    with redis(port, tmp_path) as broker:
        monkeypatch.setenv("SPOTIFY_PIPELINE_EXECUTOR", "celery")
        monkeypatch.setenv("SPOTIFY_PIPELINE_BROKER_URL", broker)
        monkeypatch.setenv("SPOTIFY_PIPELINE_REDELIVER_SECONDS", "20")
        workers = {name: start_worker(name, tmp_path) for name in ("one", "two")}

        def kill() -> None:
            wait(lambda: scenario.calls("token", names[25]), "the chunk of user 25")
            (entry,) = [
                entry
                for entry in instance.all_logs(instance.get_runs(limit=1)[0].run_id)
                if entry.step_key == "sync_chunk[2]" and "celery worker" in entry.message
            ]
            assert entry.dagster_event is not None
            at = str(entry.dagster_event.engine_event_data.metadata["Celery worker"].value)
            stop(workers[at.partition("@")[0]])

        started = time.monotonic()
        try:
            with meanwhile(kill), run(instance, size=10) as result:
                assert result.success
        finally:
            for worker in workers.values():
                stop(worker)
    seconds = time.monotonic() - started
    assert sorted(worker.returncode for worker in workers.values()) == [-signal.SIGKILL] * 2
    tries = {row["chunk"]: row["tries"] for row in scenario.rows(t.sync_run_chunks)}
    assert tries == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}
    assert {row["outcome"] for row in scenario.rows(t.sync_run_users)} == {"synced"}
    assert {user_id for _, user_id in materialized(instance)} == set(names)
    stored = Counter(row["user_id"] for row in scenario.rows(t.plays))
    assert stored == Counter({name: len(visible(scenario, name)) for name in names})
    record_property(
        "figure",
        f"60 users, 6 chunks, 2 Celery workers, one killed: all synced after {seconds:.0f} s",
    )


def visible(scenario: Scenario, user_id: str) -> list[object]:
    """The plays that Spotify shows of a user."""
    return [play for play in scenario.simulator.ledger(user_id) if play.visible]
