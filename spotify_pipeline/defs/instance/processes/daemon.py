"""Dagster's daemon with a queue that is woken.

    python -m spotify_pipeline.defs.instance.processes.daemon run -w workspace.yaml

Dagster's own looks at the queue once a second. Sensors submit runs in the daemon's process, so here
a submitted run wakes the queue's thread. Runs submitted elsewhere, as by the UI, wait as before.
"""

import threading
from functools import partial
from typing import Any

import dagster as dg

from spotify_pipeline.defs.instance.dagster_private_processes import (
    DaemonIterator,
    DagsterDaemon,
    QueuedRunCoordinatorDaemon,
    SpanMarker,
    create_daemons_from_instance,
    daemon_cli,
    daemon_controller_from_instance,
)
from spotify_pipeline.defs.instance.redaction import install


class WokenQueue(QueuedRunCoordinatorDaemon):
    """Takes runs from the queue in its one thread, as Dagster's: its checks are not atomic."""

    def __init__(self, seconds: float) -> None:
        # Without a pause of its own.
        super().__init__(interval_seconds=0)
        self._seconds = seconds
        self._submitted = threading.Event()

    def wake(self) -> None:
        """Look at the queue now, and not only `seconds` after the last time."""
        self._submitted.set()

    def core_loop(
        self, workspace_process_context: Any, shutdown_event: threading.Event
    ) -> DaemonIterator:
        """Look at the queue for ever."""
        for step in super().core_loop(workspace_process_context, shutdown_event):
            if step is SpanMarker.START_SPAN:
                # Before it reads the queue, so that the next round sees a run submitted meanwhile.
                self._submitted.clear()
            yield step
            if step is SpanMarker.END_SPAN:
                self._submitted.wait(self._seconds)


def create_daemons(instance: dg.DagsterInstance) -> list[DagsterDaemon[Any]]:
    """Dagster's daemons, with a queue that is woken by runs submitted through this instance."""
    coordinator: Any = instance.run_coordinator
    queue = WokenQueue(coordinator.dequeue_interval_seconds)
    submit = coordinator.submit_run

    def submit_and_wake(context: Any) -> Any:
        run = submit(context)
        queue.wake()
        return run

    coordinator.submit_run = submit_and_wake
    return [
        queue if isinstance(daemon, QueuedRunCoordinatorDaemon) else daemon
        for daemon in create_daemons_from_instance(instance)
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
