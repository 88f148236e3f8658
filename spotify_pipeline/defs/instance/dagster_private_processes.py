"""The private names of Dagster's own processes, its code server and its daemon.

Not in dagster_private.py, because they import gRPC and every daemon. Checked as that file says.
Read besides: DagsterApiServer starts each run with its attribute `_mp_ctx`, in StartRun only, calls
_check_for_orphaned_runs from one thread, and ends when _server_termination_event is set;
`grpc_command` imports DagsterApiServer when it is called; `daemon_cli` calls
daemon_controller_from_instance by its global name; sensors submit runs through the instance's
run coordinator; the loop of SensorDaemon uses its shutdown event for one thing, to wait between two
rounds.
"""

from dagster._cli.api import grpc_command
from dagster._daemon import cli as daemon_cli
from dagster._daemon.controller import (
    create_daemons_from_instance,
    daemon_controller_from_instance,
)
from dagster._daemon.daemon import DaemonIterator, DagsterDaemon, SensorDaemon, SpanMarker
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)
from dagster._grpc import server as grpc_server

__all__ = [
    "DaemonIterator",
    "DagsterDaemon",
    "QueuedRunCoordinatorDaemon",
    "SensorDaemon",
    "SpanMarker",
    "create_daemons_from_instance",
    "daemon_cli",
    "daemon_controller_from_instance",
    "grpc_command",
    "grpc_server",
]
