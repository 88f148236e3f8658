"""Workers are killed at random points: no play is lost or doubled, no day is half-written."""

from collections.abc import Callable
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from random import Random
from time import monotonic

import pytest
from sqlalchemy import text

from spotify_pipeline.domain.outcome import REBUILT, RECENTLY_PLAYED
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.faults.edits import NullRefreshToken
from spotify_pipeline.storage.work.leases import LEASE_SECONDS, RETRY_SECONDS
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline_tests.crashes.conftest import Scale
from spotify_pipeline_tests.crashes.crash_scenario import CrashScenario
from spotify_pipeline_tests.crashes.killed_workers import (
    kill_workers_repeatedly,
    stop_workers_repeatedly,
    sync_undisturbed,
)
from spotify_pipeline_tests.crashes.obvious_design import run_obvious_design
from spotify_pipeline_tests.crashes.oracle import compare
from spotify_pipeline_tests.crashes.processes import running_workers
from spotify_pipeline_tests.crashes.worker import Order, Report, run_pipeline

Figure = Callable[[str], None]


def test_nothing_is_lost_or_doubled_when_workers_are_killed_at_random(
    case: CrashScenario, scale: Scale, rng: Random, figure: Figure
) -> None:
    case.scenario.simulator.add_fault(NullRefreshToken(), every=2)
    stats = kill_workers_repeatedly(case, run_pipeline, scale.kills, rng)
    found = compare(case)
    figure(
        f"{stats.kills} kills of workers ({stats.interrupted} in the middle of a sync, "
        f"{case.syncs} syncs came to their end): {found}"
    )
    assert found.clean, found
    assert stats.half_written == []
    # The test is only valid if enough kills hit a sync.
    assert min(stats.interrupted, stats.leases_held) >= scale.kills / 4, stats
    # Four syncs were undisturbed.
    assert case.syncs - 4 >= scale.kills / 10
    # A rebuild from all plays changes nothing.
    for outcome in case.scenario.sync_well(*case.zones, steps=REBUILT):
        assert {(rows.new, rows.changed) for rows in outcome.done.values()} == {(0, 0)}


def test_a_worker_resumed_after_others_took_over_writes_nothing(
    case: CrashScenario, scale: Scale, rng: Random, figure: Figure
) -> None:
    stats = stop_workers_repeatedly(case, scale.stops, rng)
    found = compare(case)
    figure(
        f"{stats.kills} workers stopped and revived ({stats.interrupted} found their users taken): "
        f"{found}"
    )
    assert found.clean, found
    assert stats.half_written == []
    assert stats.unexpected == {}


def test_the_audit_detects_the_losses_of_the_obvious_design(
    case: CrashScenario, rng: Random, figure: Figure
) -> None:
    stats = kill_workers_repeatedly(case, run_obvious_design, 5, rng)
    sync_undisturbed(case, run_obvious_design, 15, timedelta(hours=1))
    found = compare(case)
    figure(f"{stats.kills} kills of the obvious design, and an undisturbed day: {found}")
    assert found.lost
    assert found.wrong_days
    assert stats.half_written


def run_in_two_steps(orders: Connection, environ: dict[str, str]) -> None:
    """The pipeline with plays and days in separate transactions."""
    now: list[datetime] = []
    with open_pipeline(load_settings(environ), lambda: now[-1]) as pipeline:
        orders.send(Report())
        while True:
            order: Order = orders.recv()
            now.append(order.now)
            sync_users(pipeline, order.user_ids, [RECENTLY_PLAYED])
            outcomes = sync_users(pipeline, order.user_ids, REBUILT)
            orders.send(Report({o.user_id: (o.result, o.error_code) for o in outcomes}))


def test_the_audit_detects_days_written_apart_from_their_plays(
    case: CrashScenario, rng: Random
) -> None:
    # About one kill in three falls between the two; 60 misses in a row are practically impossible.
    stats = kill_workers_repeatedly(case, run_in_two_steps, 60, rng, lambda seen: seen.half_written)
    assert stats.half_written


def test_the_leases_of_a_killed_worker_expire_after_half_a_minute(
    case: CrashScenario, scale: Scale, figure: Figure
) -> None:
    if not scale.soak:
        pytest.skip("waits half a minute: make soak")
    (seconds,) = sync_undisturbed(case, run_pipeline, 1)
    leases = text("SELECT count(*) FROM spotify_pipeline.sync_state WHERE lease_until > now()")
    held = 0
    while not held:
        with running_workers(run_pipeline, case.environ) as [worker]:
            worker.order(case.order())
            worker.report(seconds / 2)
            case.record(worker.kill())
        with case.scenario.pipeline.engine.connect() as conn:
            held = conn.scalar(leases)
    died = monotonic()
    with running_workers(run_pipeline, case.environ) as [worker]:
        worker.order(case.order(wait_seconds=2 * LEASE_SECONDS))
        report = worker.report()
        blocked = monotonic() - died
    assert report is not None
    assert report.synced == set(case.zones)
    figure(f"users of a killed worker were synced again {blocked:.1f} s after its death")
    assert blocked <= LEASE_SECONDS + RETRY_SECONDS + 5 * seconds
