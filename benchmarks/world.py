"""A simulated Spotify with many listeners, and a pipeline to which all are connected."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psutil

from benchmarks.machine import cpu_seconds
from spotify_pipeline.app import register_user
from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.control import ListenerInfo, Simulator
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.simulator.music.listeners import first_listeners
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage.embedded.client import running_server
from spotify_pipeline.storage.users.connection import store_connection
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline

# Two weeks of listening fill every page and list; computing a year takes the simulator a second.
LISTENED_FOR = timedelta(days=14)


@dataclass(frozen=True)
class Fleet:
    """Connected users; the variables that a child process needs are in os.environ."""

    pipeline: Pipeline
    simulator: Simulator
    instance: dg.DagsterInstance
    listeners: Sequence[ListenerInfo]
    home: Path

    def latency(self, seconds: float) -> None:
        """Adds this latency to every response of the simulator."""
        self.simulator.clear_faults()
        if seconds:
            self.simulator.add_fault(Latency(seconds))

    def cpu_of_simulator(self) -> float:
        """CPU seconds of the simulator so far."""
        (pid,) = [
            child.pid
            for child in psutil.Process().children()
            if "spotify_pipeline.simulator" in child.cmdline()
        ]
        return cpu_seconds(pid)

    def cpu_of_postgres(self) -> float:
        """CPU seconds of the embedded server and all its sessions so far."""
        server = running_server(self.home)
        assert server is not None
        return cpu_seconds(server.pid)


@contextmanager
def fleet(users: int, connections: int) -> Iterator[Fleet]:
    """Connects so many listeners, on an embedded Postgres, without rate limits."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet_")))
        simulator = stack.enter_context(running_simulator())
        os.environ |= {
            **simulator.environment,
            "SPOTIFY_PIPELINE_HOME": str(home),
            "SPOTIFY_PIPELINE_CONNECTIONS": str(connections),
            "SPOTIFY_PIPELINE_CALLS_PER_30S": "0",
            "SPOTIFY_PIPELINE_CALLS_PER_DAY": "0",
            "PYTHONWARNINGS": "ignore",
        }
        settings = load_settings()
        pipeline = stack.enter_context(open_pipeline(settings))
        # Creates Dagster's tables before anything is measured.
        instance = stack.enter_context(opened_instance(settings))
        now = datetime.now(UTC)
        listeners = connect_listeners(pipeline, simulator, users, now - timedelta(days=2), now)
        yield Fleet(pipeline, simulator, instance, listeners, home)


def connect_listeners(
    pipeline: Pipeline,
    simulator: Simulator,
    users: int,
    clock: datetime,
    now: datetime | None = None,
) -> list[ListenerInfo]:
    """So many listeners, who have listened for two weeks at `now` (default: at the clock)."""
    simulator.set_clock(clock)
    now = now or clock
    listeners = [
        simulator.add_listener(
            role.user_id,
            role.timezone,
            kind=role.kind,
            since=(now - LISTENED_FOR).date(),
        )
        for role in first_listeners(users, simulator.seed)
    ]
    with pipeline.engine.begin() as conn:
        for listener in listeners:
            register_user(conn, listener.user_id, listener.timezone, listener.display_name)
            store_connection(
                conn,
                pipeline.keyring,
                listener.user_id,
                listener.refresh_token,
                client_id=simulator.client_id,
                authorized_at=now,
            )
    return listeners
