"""Launches runs as Dagster's default does, and notices when the process of a run is gone.

Under the default launcher a run whose whole process tree was killed stays STARTED for ever, and
with one run per user blocks that user. Named in dagster.yaml; the run monitor of the daemon asks.
"""

import json
import socket

import psutil
from dagster import DagsterEventType, DagsterRun

from spotify_pipeline.defs.instance.dagster_private import (
    GRPC_INFO_TAG,
    CheckRunHealthResult,
    DefaultRunLauncher,
    WorkerStatus,
)
from spotify_pipeline.defs.tags import HOST

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class LocalRunLauncher(DefaultRunLauncher):
    """The default launcher with a health check for the runs of this machine."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Lets the daemon's run monitor ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """FAILED when the run's process is gone; RUNNING also where that cannot be known."""
        started = self._instance.event_log_storage.get_logs_for_run(
            run.run_id, of_type=DagsterEventType.ENGINE_EVENT, ascending=True
        )
        for entry in started:
            event = entry.dagster_event
            pid = event.engine_event_data.metadata.get("pid") if event else None
            if pid is not None and _is_of_this_machine(run):
                if _lives(int(str(pid.value)), since=entry.timestamp):
                    break
                return CheckRunHealthResult(
                    WorkerStatus.FAILED, f"The run's process {pid.value} is gone."
                )
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _is_of_this_machine(run: DagsterRun) -> bool:
    if HOST in run.tags:
        return run.tags[HOST] == socket.gethostname()
    server = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return "socket" in server or server.get("host") in LOOPBACK


def _lives(pid: int, since: float) -> bool:
    """Whether this is still the process that wrote an event then: numbers are used again."""
    try:
        process = psutil.Process(pid)
        # The start is known to the clock's last step only: a minute of grace.
        first_there = float(process.create_time()) <= since + 60
        return first_there and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
