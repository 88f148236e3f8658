"""Imports every module that a run and its steps need, in the warm process before it forks them."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

# Before numpy and pyarrow: OpenBLAS and Arrow's allocator would start threads, and only a process
# with one thread may fork.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")

MODULES = [
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.executor.multiprocess",
    "dagster._core.instance.factory",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.workspace.autodiscovery",
    "dagster._grpc.impl",
    "pandas.core.methods.to_dict",
    "psycopg",
    "psycopg2.extras",
    "spotify_pipeline.definitions",
    "spotify_pipeline.defs.instance.launcher",
    "spotify_pipeline.defs.instance.storage",
    "spotify_pipeline.storage.embedded.client",
    "spotify_pipeline.storage.postgres.errors",
    "spotify_pipeline.storage.users.queries",
    "spotify_pipeline.sync.compute",
    "spotify_pipeline.sync.requests",
    "spotify_pipeline.sync.runs",
    "tzdata.zoneinfo",
    "upath.implementations.local",
]


@contextmanager
def preloading() -> Iterator[None]:
    """What is imported here stays shared by the processes that are forked later."""
    # A broken module is reported by the process that imports it; here it would end all.
    with suppress(Exception):
        yield
    # Otherwise each process's collector scans some 200,000 objects of modules, and copies their
    # pages.
    gc.collect()
    gc.freeze()


with preloading():
    for _name in MODULES:
        import_module(_name)
    # Definitions import more while they are made.
    _definitions = import_module("spotify_pipeline.defs.build").build_defs()
    for _job in ("sync_user", "sync_users"):
        _definitions.resolve_job_def(_job)
    # The first password that is hashed sets up psycopg's OpenSSL: 7 MB of each process otherwise.
    _no_connection = import_module("psycopg").pq.PGconn.connect_start(b"host=/nowhere")
    _no_connection.encrypt_password(b"", b"", b"scram-sha-256")
    _no_connection.finish()
