"""The run launcher: Dagster's default, with a health check that finds runs whose process died.

Under the default launcher a run whose whole process tree was killed stays STARTED for ever and, as
only one run per user may be active, blocks that user. Configured in dagster.yaml; called by the run
monitor of the daemon.
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
from spotify_pipeline.defs.partitions import HOST

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class LocalRunLauncher(DefaultRunLauncher):
    """The default launcher with a health check for the runs of this machine."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: the daemon's run monitor calls check_run_worker_health."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """FAILED when the run's process is gone; RUNNING also if that is unknown."""
        events = self._instance.event_log_storage.get_logs_for_run(
            run.run_id, of_type=DagsterEventType.ENGINE_EVENT, ascending=True
        )
        for entry in events:
            event = entry.dagster_event
            pid = event.engine_event_data.metadata.get("pid") if event else None
            if pid is not None and _is_on_this_host(run):
                if _is_running(int(str(pid.value)), since=entry.timestamp):
                    break
                return CheckRunHealthResult(
                    WorkerStatus.FAILED, f"The run's process {pid.value} is gone."
                )
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _is_on_this_host(run: DagsterRun) -> bool:
    if HOST in run.tags:
        return run.tags[HOST] == socket.gethostname()
    server = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return "socket" in server or server.get("host") in LOOPBACK


def _is_running(pid: int, since: float) -> bool:
    """Whether the process that wrote an event at `since` still runs; pids are reused."""
    try:
        process = psutil.Process(pid)
        # A minute of tolerance: create_time shifts when the system clock is set.
        started_before = float(process.create_time()) <= since + 60
        return started_before and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
