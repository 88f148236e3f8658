"""Imports what the processes of `dev` need, in the warm process before it forks them.

On top of what runs need, which preloaded.py imports before.
"""

import gc
import os
import signal
from contextlib import suppress
from functools import partial
from importlib import import_module

from spotify_pipeline.defs.instance import PROCESSES
from spotify_pipeline.defs.instance.processes.warm_process import call_it, die_with_parent

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

# As in a new interpreter. A script's `dev &` ignores SIGINT, and Dagster gives SIGTERM its handler:
# its processes would ignore both and outlive `dev`.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
    signal.signal(_number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
# When `dev` is killed, its processes must not live on and hold the database.
die_with_parent(signal.SIGTERM)
call_it("warm process")
# The others name themselves.
os.register_at_fork(after_in_child=partial(call_it, "run"))

# A broken module is reported by the process that imports it; here it would end all.
with suppress(Exception):
    for _name in MODULES:
        import_module(_name)

gc.collect()
gc.freeze()
