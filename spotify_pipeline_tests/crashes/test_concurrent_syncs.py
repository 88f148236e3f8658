"""Several processes sync the same users at the same time."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from random import Random
from statistics import median
from time import monotonic

import pytest
from sqlalchemy import Engine, text

from spotify_pipeline_tests.crashes.conftest import Scale
from spotify_pipeline_tests.crashes.crash_scenario import CrashScenario
from spotify_pipeline_tests.crashes.killed_workers import sync_undisturbed
from spotify_pipeline_tests.crashes.oracle import compare
from spotify_pipeline_tests.crashes.processes import running_workers
from spotify_pipeline_tests.crashes.worker import Order, run_pipeline


def deadlocks(engine: Engine) -> int:
    """The number of deadlocks Postgres has counted in this database."""
    with engine.connect() as conn:
        count: int = conn.scalar(
            text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        )
        return count


@pytest.mark.parametrize("processes", [2, 4])
def test_concurrent_syncs_of_the_same_users_refresh_each_token_once(
    case: CrashScenario, scale: Scale, rng: Random, figure: Callable[[str], None], processes: int
) -> None:
    alone = median(sync_undisturbed(case, run_pipeline, 3))
    slowest = 0.0
    with running_workers(run_pipeline, case.environ, processes) as workers:
        for _ in range(scale.rounds):
            case.advance(timedelta(minutes=20))
            case.scenario.simulator.expire_access_tokens()
            # Expired in the database too, so that the refresh comes before the first call.
            case.scenario.execute(
                "UPDATE spotify_pipeline.user_tokens SET access_expires_at = now()"
            )
            case.scenario.simulator.forget_calls()
            started = monotonic()
            for worker in workers:
                users = rng.sample(tuple(case.zones), len(case.zones))
                worker.order(Order(case.now, users, wait_seconds=60))
            for worker in workers:
                report = worker.report()
                assert report is not None
                assert set(report.results.values()) == {("synced", None)}, report
                case.record(report)
            slowest = max(slowest, monotonic() - started)
            refreshed = Counter(call.user_id for call in case.scenario.calls("token"))
            assert refreshed == dict.fromkeys(case.zones, 1)
    found = compare(case)
    figure(
        f"{processes} processes at once, {scale.rounds} rounds: 1 refresh per user and round, "
        f"{deadlocks(case.scenario.pipeline.engine)} deadlocks, "
        f"{slowest:.1f} s at most ({alone:.1f} s alone); {found}"
    )
    assert found.clean, found
    assert deadlocks(case.scenario.pipeline.engine) == 0
