"""Postgres is killed in the middle of syncs: no play is lost, and the same worker continues."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.simulator.faults.edits import RotateRefreshToken
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline_tests.crashes.conftest import Scale
from spotify_pipeline_tests.crashes.crash_scenario import CrashScenario, open_crash_scenario
from spotify_pipeline_tests.crashes.killed_workers import (
    kill_postgres,
    kill_postgres_repeatedly,
)
from spotify_pipeline_tests.crashes.oracle import compare


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a server used by no other test."""
    return tmp_path / "home"


@pytest.fixture
def case(home: Path, seed: int) -> Iterator[CrashScenario]:
    """The scenario with its own Postgres, supervised as in production."""
    with embedded.start(home) as server:
        engine = make_engine(server.url())
        init_db(engine)
        engine.dispose()
        environ = {
            "SPOTIFY_PIPELINE_HOME": str(home),
            "SPOTIFY_PIPELINE_TOKEN_KEYS": new_key()[1],
        }
        with open_crash_scenario(environ, seed) as case:
            yield case


@pytest.fixture
def kill(home: Path) -> Callable[[], None]:
    """Kills Postgres (SIGKILL); its supervisor restarts it."""
    return lambda: kill_postgres(home)


def test_nothing_is_lost_or_doubled_when_postgres_is_killed_in_the_middle_of_syncs(
    case: CrashScenario,
    kill: Callable[[], None],
    scale: Scale,
    rng: Random,
    figure: Callable[[str], None],
) -> None:
    stats = kill_postgres_repeatedly(case, kill, scale.postgres_kills, rng)
    found = compare(case)
    failed = sum(stats.unexpected.values())
    figure(
        f"{stats.kills} kills of Postgres ({stats.interrupted} in the middle of a sync: {failed} "
        f"failed cleanly, {stats.interrupted - failed} went on): {found}"
    )
    assert found.clean, found
    assert stats.half_written == []
    assert stats.interrupted > 0, stats
    # The operator gets one sentence each time.
    assert {message[-1] for message in stats.unexpected} <= {"."}, stats.unexpected


def test_a_refresh_token_that_came_while_postgres_was_down_is_not_lost(
    case: CrashScenario, kill: Callable[[], None]
) -> None:
    case.scenario.simulator.add_fault(RotateRefreshToken())
    (outcome,) = case.scenario.meanwhile("refresh", kill).sync("anna")
    assert outcome.result == "synced"
    assert case.scenario.row(t.users, "anna")["connection"] == "connected"
    case.scenario.simulator.expire_access_tokens()
    case.scenario.sync_well("anna")
