"""Imports what the processes of `dev` need, in the warm process before it forks them.

On top of what runs need, which preloaded.py imports before.
"""

from importlib import import_module

from spotify_pipeline.defs.instance import PROCESSES
from spotify_pipeline.defs.instance.processes.preloaded import preloading

MODULES = [
    "dagster._api.get_server_id",
    "dagster._api.list_repositories",
    "dagster._api.snapshot_repository",
    "dagster._api.snapshot_sensor",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.utility_ops",
    "dagster._grpc.server_watcher",
    "dagster._utils.test.definitions",
    "dagster_graphql.schema.config_type_or_error",
    "dagster_webserver.app",
    "grpc._channel",
    "grpc._server",
    f"{PROCESSES}.code_server",
    f"{PROCESSES}.daemon",
    f"{PROCESSES}.webserver",
    "spotify_pipeline.cli.program",
    "spotify_pipeline.cli.operate.serve",
    "spotify_pipeline.web.application",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
]

with preloading():
    for _name in MODULES:
        import_module(_name)
