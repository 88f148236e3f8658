"""Imports what the processes of `dev` need, in the warm process before it forks them.

On top of what runs need, which preloaded.py imports before.
"""

import gc
from contextlib import suppress
from importlib import import_module

from spotify_pipeline.defs.instance import PROCESSES

MODULES = [
    "dagster_graphql.schema",
    "dagster_webserver.app",
    f"{PROCESSES}.code_server",
    f"{PROCESSES}.daemon",
    f"{PROCESSES}.webserver",
    "spotify_pipeline.cli.main",
    "spotify_pipeline.cli.operate.serve",
    "spotify_pipeline.web.application",
]

# A broken module is reported by the process that imports it; here it would end all.
with suppress(Exception):
    for _name in MODULES:
        import_module(_name)

gc.collect()
gc.freeze()
