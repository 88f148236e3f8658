"""The daemon's pause between two looks at the sensors."""

import threading
from time import monotonic

import dagster as dg
import pytest

from spotify_pipeline.defs.instance.processes import daemon
from spotify_pipeline.defs.instance.processes.daemon import Pause, WokenSensors

LONG = 60.0


def waiting(pause: Pause) -> tuple[threading.Thread, list[bool]]:
    """A thread that waits in a pause of a minute, and what its wait has returned."""
    returned: list[bool] = []
    thread = threading.Thread(target=lambda: returned.append(pause.wait(LONG)), daemon=True)
    thread.start()
    return thread, returned


def test_a_wake_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "TICK_ENDS_SECONDS", 0.0)
    woken = threading.Event()
    thread, returned = waiting(Pause(threading.Event(), woken))
    woken.set()
    thread.join(LONG / 2)
    assert returned == [False]
    assert not woken.is_set()


def test_a_shutdown_ends_the_pause() -> None:
    shutdown = threading.Event()
    thread, returned = waiting(Pause(shutdown, threading.Event()))
    shutdown.set()
    thread.join(LONG / 2)
    assert returned == [True]


def test_a_pause_without_a_wake_lasts_its_time() -> None:
    began = monotonic()
    assert not Pause(threading.Event(), threading.Event()).wait(0.2)
    assert monotonic() - began >= 0.2


def test_a_submitted_run_wakes_the_sensors(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[object] = []
    monkeypatch.setattr(instance.run_coordinator, "submit_run", submitted.append)
    (sensors,) = (d for d in daemon.create_daemons(instance) if isinstance(d, WokenSensors))
    assert not sensors._woken.is_set()
    instance.run_coordinator.submit_run("context")  # type: ignore[arg-type]
    assert (submitted, sensors._woken.is_set()) == (["context"], True)


def test_a_tick_that_waited_in_vain_wakes_the_sensors_and_one_that_ended_at_once_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken = threading.Event()
    with WokenSensors({"use_threads": True, "num_workers": 1}, woken) as sensors:
        threads = sensors._threadpool_executor
        assert threads
        threads.submit(int)
        # The first one's callback has run before the thread begins the second.
        threads.submit(int).result()
        assert not woken.is_set()
        monkeypatch.setattr(daemon, "WAITED_SECONDS", 0.0)
        threads.submit(int)
        assert woken.wait(LONG)
