"""The scale of the crash tests, their scenario, and the report of figures.

`make test` kills a little, at times that each test's name chooses, so that a change is what makes
it fail. `make soak` (SOAK=1) kills a lot, at other times in every run. CRASH_SEED repeats the times
of one run, though not the statement that a process was executing at those times.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random, SystemRandom
from zlib import crc32

import pytest
from sqlalchemy import URL

from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline_tests.crashes.crash_scenario import CrashScenario, open_crash_scenario


@dataclass(frozen=True)
class Scale:
    """The number of kills, stops and deletions in the tests."""

    soak: bool
    kills: int
    postgres_kills: int
    stops: int
    rounds: int
    megabytes: int
    forgets: int


BRIEF = Scale(soak=False, kills=20, postgres_kills=5, stops=4, rounds=1, megabytes=60, forgets=20)
LONG = Scale(
    soak=True, kills=200, postgres_kills=20, stops=40, rounds=20, megabytes=400, forgets=200
)


@pytest.fixture(scope="session")
def scale() -> Scale:
    return LONG if os.environ.get("SOAK") == "1" else BRIEF


@pytest.fixture
def seed(request: pytest.FixtureRequest, scale: Scale) -> int:
    """The test's own, or one drawn anew by a soak; pytest shows it if the test fails."""
    usual = SystemRandom().randrange(10**6) if scale.soak else crc32(request.node.name.encode())
    chosen = int(os.environ.get("CRASH_SEED") or usual)
    print(f"CRASH_SEED={chosen}")
    return chosen


@pytest.fixture
def rng(seed: int) -> Random:
    return Random(seed)


@pytest.fixture
def case(database: URL, seed: int) -> Iterator[CrashScenario]:
    """Four users in four zones, connected, never synced."""
    environ = {
        "SPOTIFY_PIPELINE_DATABASE_URL": database.render_as_string(hide_password=False),
        "SPOTIFY_PIPELINE_TOKEN_KEYS": new_key()[1],
    }
    with open_crash_scenario(environ, seed) as case:
        yield case


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Records a sentence with a measurement, shown at the end of the run."""
    return lambda sentence: request.node.user_properties.append(("figure", sentence))
