"""Dagster's daemon with a queue and sensors that are woken.

    python -m spotify_pipeline.defs.instance.processes.daemon run -w workspace.yaml

Dagster's own looks at the queue once a second and at sensors every five. Sensors submit runs in the
daemon's process, so here a submitted run wakes both threads, and a tick that has waited in vain
that of the sensors. Runs submitted elsewhere, as by the UI, wait as before.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import dagster as dg

from spotify_pipeline.defs.instance.dagster_private_processes import (
    DaemonIterator,
    DagsterDaemon,
    QueuedRunCoordinatorDaemon,
    SensorDaemon,
    SpanMarker,
    create_daemons_from_instance,
    daemon_cli,
    daemon_controller_from_instance,
)
from spotify_pipeline.defs.instance.redaction import install

# After it has submitted runs, a tick still stores its result.
TICK_ENDS_SECONDS = 1.0
# A tick that took as long has waited for work in vain. Others are no hurry: one that ends at once
# would be followed by the next once a second.
WAITED_SECONDS = 10.0
# How long a shutdown may go unnoticed.
LOOK_SECONDS = 0.5


class WokenQueue(QueuedRunCoordinatorDaemon):
    """Takes runs from the queue in its one thread, as Dagster's: its checks are not atomic."""

    def __init__(self, seconds: float, woken: threading.Event) -> None:
        # Without a pause of its own.
        super().__init__(interval_seconds=0)
        self._seconds, self._woken = seconds, woken

    def core_loop(
        self, workspace_process_context: Any, shutdown_event: threading.Event
    ) -> DaemonIterator:
        """Look at the queue for ever."""
        for step in super().core_loop(workspace_process_context, shutdown_event):
            if step is SpanMarker.START_SPAN:
                # Before it reads the queue, so that the next round sees a run submitted meanwhile.
                self._woken.clear()
            yield step
            if step is SpanMarker.END_SPAN:
                self._woken.wait(self._seconds)


class Pause(threading.Event):
    """The shutdown event as the loop over sensors sees it: its `wait` ends early when woken."""

    def __init__(self, shutdown: threading.Event, woken: threading.Event) -> None:
        super().__init__()
        self._shutdown, self._woken = shutdown, woken

    def wait(self, timeout: float | None = None) -> bool:
        """Wait so many seconds, or until a second after a wake; whether Dagster shuts down."""
        until = time.monotonic() + (timeout or 0)
        while (left := until - time.monotonic()) > 0 and not self._shutdown.is_set():
            if self._woken.wait(min(left, LOOK_SECONDS)):
                self._woken.clear()
                until = min(until, time.monotonic() + TICK_ENDS_SECONDS)
        return self._shutdown.is_set()


class WokenSensors(SensorDaemon):
    """Looks at the sensors soon after one of them has submitted a run, or has waited in vain.

    The request sensor waits inside its tick, and the tick ends with a request or after half a
    minute: Dagster would begin the next one up to five seconds later, and a user who presses Sync
    meanwhile would wait for it.
    """

    def __init__(self, settings: Mapping[str, Any], woken: threading.Event) -> None:
        super().__init__(settings)
        self._woken = woken
        # None if dagster.yaml is another than ours and lets ticks wait for each other.
        if threads := self._threadpool_executor:
            threads.submit = partial(self._submit, threads.submit)  # type: ignore[method-assign]

    def _submit(self, submit: Callable[..., Future[Any]], *tick: Any) -> Future[Any]:
        began = time.monotonic()

        def wake(_: object) -> None:
            if time.monotonic() - began >= WAITED_SECONDS:
                self._woken.set()

        future = submit(*tick)
        future.add_done_callback(wake)
        return future

    def core_loop(
        self, workspace_process_context: Any, shutdown_event: threading.Event
    ) -> DaemonIterator:
        """Look at the sensors for ever."""
        return super().core_loop(workspace_process_context, Pause(shutdown_event, self._woken))


def create_daemons(instance: dg.DagsterInstance) -> list[DagsterDaemon[Any]]:
    """Dagster's daemons, with those that runs submitted through this instance wake."""
    coordinator: Any = instance.run_coordinator
    # Two, because each thread clears its own.
    wake_queue, wake_sensors = threading.Event(), threading.Event()
    queue = WokenQueue(coordinator.dequeue_interval_seconds, wake_queue)
    sensors = WokenSensors(instance.get_sensor_settings(), wake_sensors)
    submit = coordinator.submit_run

    def submit_and_wake(context: Any) -> Any:
        run = submit(context)
        wake_queue.set()
        wake_sensors.set()
        return run

    coordinator.submit_run = submit_and_wake
    woken: dict[str, DagsterDaemon[Any]] = {
        queue.daemon_type(): queue,
        sensors.daemon_type(): sensors,
    }
    return [
        woken.get(daemon.daemon_type(), daemon) for daemon in create_daemons_from_instance(instance)
    ]


def main() -> None:
    """Run `dagster-daemon` with these daemons."""
    install()
    # Patched, because the command line takes no daemons.
    daemon_cli.daemon_controller_from_instance = partial(  # type: ignore[attr-defined]
        daemon_controller_from_instance, gen_daemons=create_daemons
    )
    daemon_cli.main()


if __name__ == "__main__":
    main()
