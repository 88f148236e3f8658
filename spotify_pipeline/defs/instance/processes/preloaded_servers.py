"""Imports what the processes of `dev` need, in the warm process before it forks them.

On top of what runs need, which preloaded.py imports before.
"""

from importlib import import_module

from spotify_pipeline.defs.instance import PROCESSES
from spotify_pipeline.defs.instance.processes.preloaded import preloading

MODULES = [
    "dagster_graphql.schema",
    "dagster_webserver.app",
    f"{PROCESSES}.code_server",
    f"{PROCESSES}.daemon",
    f"{PROCESSES}.webserver",
    "spotify_pipeline.cli.program",
    "spotify_pipeline.cli.operate.serve",
    "spotify_pipeline.web.application",
]

with preloading():
    for _name in MODULES:
        import_module(_name)
