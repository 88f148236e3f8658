"""Several processes sync the same people at the same time."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from random import Random
from statistics import median
from time import monotonic

import pytest
from sqlalchemy import Engine, text

from spotify_pipeline_tests.crashes.conftest import Scale
from spotify_pipeline_tests.crashes.crash_scenario import World
from spotify_pipeline_tests.crashes.killed_workers import sync_in_peace
from spotify_pipeline_tests.crashes.oracle import compare
from spotify_pipeline_tests.crashes.processes import working
from spotify_pipeline_tests.crashes.worker import Order, run_pipeline


def deadlocks(engine: Engine) -> int:
    """Deadlocks that Postgres has seen in this database; others' sessions have told by now."""
    with engine.connect() as conn:
        count: int = conn.scalar(
            text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        )
        return count


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_sync_the_same_people_at_once_refresh_each_token_once(
    world: World, scale: Scale, rng: Random, figure: Callable[[str], None], processes: int
) -> None:
    alone = median(sync_in_peace(world, run_pipeline, 3))
    slowest = 0.0
    with working(run_pipeline, world.environ, processes) as workers:
        for _ in range(scale.rounds):
            world.move(timedelta(minutes=20))
            world.scenario.simulator.expire_access_tokens()
            # Expired in the eyes of the database too, so that it is known before the first call.
            world.scenario.execute(
                "UPDATE spotify_pipeline.user_tokens SET access_expires_at = now()"
            )
            world.scenario.simulator.forget_calls()
            started = monotonic()
            for worker in workers:
                people = rng.sample(tuple(world.zones), len(world.zones))
                worker.order(Order(world.now, people, wait_seconds=60))
            for worker in workers:
                report = worker.report()
                assert report is not None
                assert set(report.results.values()) == {("synced", None)}, report
                world.note(report)
            slowest = max(slowest, monotonic() - started)
            refreshed = Counter(call.user_id for call in world.scenario.calls("token"))
            assert refreshed == dict.fromkeys(world.zones, 1)
    found = compare(world)
    figure(
        f"{processes} processes at once, {scale.rounds} rounds: 1 refresh per person and round, "
        f"{deadlocks(world.stage.pipeline.engine)} deadlocks, "
        f"{slowest:.1f} s at most ({alone:.1f} s alone); {found}"
    )
    assert found.clean, found
    assert deadlocks(world.scenario.pipeline.engine) == 0
