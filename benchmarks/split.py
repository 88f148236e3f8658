"""CPU profile of a sync: HTTP, parsing, SQL, sealing, Dagster's events, and the rest."""

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import dagster as dg
import sqlalchemy

from spotify_pipeline.defs import jobs
from spotify_pipeline.defs.in_process import sync_many, why_failed
from spotify_pipeline.domain import sealing
from spotify_pipeline.spotify import client, http
from spotify_pipeline.spotify.http import HttpAdapter
from spotify_pipeline.storage.work.sync_runs import enlist
from spotify_pipeline.sync import compute, tokens
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.runs import ENLISTED

# Part → the functions it consists of. A part called by another counts for the outer one.
PARTS: dict[str, Sequence[tuple[Any, str]]] = {
    "Dagster events": [
        (dg.DagsterInstance, "handle_new_event"),
        (jobs, "store_materializations"),
    ],
    "HTTP": [(HttpAdapter, "attempt")],
    "parsing": [
        (http, "classify"),
        (client, "parse_recently_played"),
        (client, "parse_top_artists"),
        (client, "parse_top_tracks"),
    ],
    "sealing": [(sealing.Keyring, "open"), (tokens, "seal")],
    "days": [(compute.day, "daily_listening")],
    "personality": [(compute, "music_personality")],
    "SQL": [
        (sqlalchemy.Connection, name)
        for name in ("execute", "scalar", "scalars", "_commit_impl", "_rollback_impl")
    ]
    + [(sqlalchemy.Engine, "connect"), (sqlalchemy.CursorResult, "fetchall")],
}


class Meter:
    """CPU seconds by part, summed over all threads."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._mine = threading.local()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function: its CPU counts for the part unless another part called it."""

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if getattr(self._mine, "busy", False):
                return function(*args, **options)
            self._mine.busy = True
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self._mine.busy = False
                with self._lock:
                    self.seconds[part] += time.thread_time() - began
                    self.calls[part] += 1

        return call


@contextmanager
def metered() -> Iterator[Meter]:
    """Meters all parts until the block ends."""
    meter = Meter()
    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                timed = meter.timed(part, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, timed))
        yield meter


def cpu_split(
    instance: dg.DagsterInstance, pipeline: Pipeline, user_ids: Sequence[str]
) -> dict[str, float]:
    """CPU milliseconds per user and part of one run of sync_users in this process."""
    run_id = str(uuid4())
    with pipeline.engine.begin() as conn:
        enlist(conn, run_id, user_ids)
    with metered() as meter:
        began = time.process_time()
        failure = why_failed(sync_many(instance, run_id, ENLISTED))
        total = time.process_time() - began
    if failure:
        raise RuntimeError(failure)
    parts = {part: meter.seconds[part] for part in PARTS}
    parts["the rest"] = total - sum(parts.values())
    return {part: 1000 * seconds / len(user_ids) for part, seconds in parts.items()}
