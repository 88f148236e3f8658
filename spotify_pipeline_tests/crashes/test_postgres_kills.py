"""R2: Postgres dies in the middle of syncs; nothing is lost, and the same worker goes on."""

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
from spotify_pipeline_tests.crashes.crash_scenario import World, open_world
from spotify_pipeline_tests.crashes.killed_workers import (
    kill_postgres,
    kill_postgres_again_and_again,
)
from spotify_pipeline_tests.crashes.oracle import compare


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a server that no other test uses."""
    return tmp_path / "home"


@pytest.fixture
def world(home: Path, seed: int) -> Iterator[World]:
    """The world with a Postgres of its own, supervised as in production."""
    with embedded.start(home) as server:
        engine = make_engine(server.url())
        init_db(engine)
        engine.dispose()
        environ = {
            "SPOTIFY_PIPELINE_HOME": str(home),
            "SPOTIFY_PIPELINE_TOKEN_KEYS": new_key()[1],
        }
        with open_world(environ, seed) as world:
            yield world


@pytest.fixture
def kill(home: Path) -> Callable[[], None]:
    """SIGKILL for Postgres; its supervisor starts it again."""
    return lambda: kill_postgres(home)


def test_nothing_is_lost_or_doubled_when_postgres_is_killed_in_the_middle_of_syncs(
    world: World,
    kill: Callable[[], None],
    scale: Scale,
    rng: Random,
    figure: Callable[[str], None],
) -> None:
    tally = kill_postgres_again_and_again(world, kill, scale.postgres_kills, rng)
    found = compare(world)
    failed = sum(tally.said.values())
    figure(
        f"{tally.blows} kills of Postgres ({tally.unfinished} in the middle of a sync: {failed} "
        f"failed cleanly, {tally.unfinished - failed} went on): {found}"
    )
    assert found.clean, found
    assert tally.half_written == []
    assert tally.unfinished > 0, tally
    # One sentence for the operator each time.
    assert {words[-1] for words in tally.said} <= {"."}, tally.said


def test_a_refresh_token_that_came_while_postgres_was_down_is_not_lost(
    world: World, kill: Callable[[], None]
) -> None:
    world.scenario.simulator.add_fault(RotateRefreshToken())
    (outcome,) = world.scenario.meanwhile("refresh", kill).sync("anna")
    assert outcome.result == "synced"
    assert world.scenario.row(t.users, "anna")["connection"] == "connected"
    world.scenario.simulator.expire_access_tokens()
    world.scenario.sync_well("anna")
