"""Dagster's code server with forked runs.

    python -m spotify_pipeline.defs.instance.processes.code_server -m MODULE --port PORT

Takes the options of `dagster api grpc`. Everything else about runs is Dagster's: their start over
gRPC, cancellation, exit codes and the report of runs whose process has died.
"""

# Imports only what a run has imported already: Python imports the main module of
# the code server in every run.
import logging
import threading
from typing import Any

log = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM."""
    from spotify_pipeline.defs import resources
    from spotify_pipeline.defs.instance.dagster_private_processes import grpc_command, grpc_server
    from spotify_pipeline.defs.instance.processes import warm_process
    from spotify_pipeline.defs.instance.redaction import install

    class CodeServer(grpc_server.DagsterApiServer):
        """Starts runs in the context that RunStarter chooses; its end ends waiting ticks."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._starter = warm_process.RunStarter(
                warm_process.PACKAGE, warm_process.IMPORTED_CODE
            )

        def StartRun(self, request: Any, context: Any) -> Any:
            self._mp_ctx = self._starter.context()  # type: ignore[assignment]
            return super().StartRun(request, context)

        def _check_for_orphaned_runs(self) -> None:
            # Called every second by a thread that an exception would end: then no run's death would
            # be reported any more, and this process would never end.
            try:
                super()._check_for_orphaned_runs()
            except Exception:
                log.exception("The end of a run could not be reported; the daemon will find it.")
                if ending.is_set():
                    self._server_termination_event.set()

        def cleanup(self) -> None:
            ending.set()
            super().cleanup()

    resources.ending = ending = threading.Event()
    install()
    # Patched, because the command line takes no class.
    grpc_server.DagsterApiServer = CodeServer  # type: ignore[misc]
    grpc_command()


if __name__ == "__main__":
    main()
