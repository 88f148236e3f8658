"""Makes a process the warm process of `dev`: imported first, before what takes seconds."""

import os
import signal
from functools import partial

from spotify_pipeline.defs.instance.processes.warm_process import (
    STARTED_BY,
    call_it,
    die_with_parent,
)

# Ctrl-C is for `dev`, which stops its processes in order.
os.setsid()
# As in a new interpreter. A script's `dev &` ignores SIGINT, and Dagster gives SIGTERM its handler:
# its processes would ignore both and outlive `dev`.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
    signal.signal(_number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
# When `dev` is killed, its processes must not live on and hold the database.
die_with_parent(signal.SIGTERM)
# It may have been killed already.
if os.getppid() != int(os.environ[STARTED_BY]):
    os._exit(1)
call_it("warm process")
# The servers name themselves.
os.register_at_fork(after_in_child=partial(call_it, "run"))
