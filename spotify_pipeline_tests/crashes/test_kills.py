"""R1: workers die at random points; nothing is lost, nothing doubled, no day is half-written."""

from collections.abc import Callable
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from random import Random
from time import monotonic

import pytest
from sqlalchemy import text

from spotify_pipeline.domain.steps import REBUILT, RECENTLY_PLAYED
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.faults.edits import NullRefreshToken
from spotify_pipeline.storage.work.leases import LEASE_SECONDS, RETRY_SECONDS
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline_tests.crashes.conftest import Scale
from spotify_pipeline_tests.crashes.crash_scenario import World
from spotify_pipeline_tests.crashes.killed_workers import (
    kill_again_and_again,
    stop_again_and_again,
    sync_in_peace,
)
from spotify_pipeline_tests.crashes.obvious_design import run_naive
from spotify_pipeline_tests.crashes.oracle import compare
from spotify_pipeline_tests.crashes.processes import working
from spotify_pipeline_tests.crashes.worker import Order, Report, run_pipeline

Figure = Callable[[str], None]


def test_nothing_is_lost_or_doubled_when_workers_are_killed_at_random(
    world: World, scale: Scale, rng: Random, figure: Figure
) -> None:
    world.scenario.simulator.add_fault(NullRefreshToken(), every=2)
    tally = kill_again_and_again(world, run_pipeline, scale.kills, rng)
    found = compare(world)
    figure(
        f"{tally.blows} kills of workers ({tally.unfinished} in the middle of a sync, "
        f"{world.syncs} syncs came to their end): {found}"
    )
    assert found.clean, found
    assert tally.half_written == []
    # Kills that hit nothing prove nothing.
    assert min(tally.unfinished, tally.held) >= scale.kills / 4, tally
    # Four were left in peace.
    assert world.syncs - 4 >= scale.kills / 10
    # What came in pieces is what a rebuild makes of all plays.
    for outcome in world.scenario.sync_well(*world.zones, steps=REBUILT):
        assert {(rows.new, rows.changed) for rows in outcome.done.values()} == {(0, 0)}


def test_a_worker_that_comes_back_from_the_dead_writes_nothing(
    world: World, scale: Scale, rng: Random, figure: Figure
) -> None:
    tally = stop_again_and_again(world, scale.stops, rng)
    found = compare(world)
    figure(
        f"{tally.blows} workers stopped and revived ({tally.unfinished} found their users taken): "
        f"{found}"
    )
    assert found.clean, found
    assert tally.half_written == []
    assert tally.said == {}


def test_the_harness_finds_what_the_obvious_design_loses(
    world: World, rng: Random, figure: Figure
) -> None:
    tally = kill_again_and_again(world, run_naive, 5, rng)
    sync_in_peace(world, run_naive, 15, timedelta(hours=1))
    found = compare(world)
    figure(f"{tally.blows} kills of the obvious design, and a day of peace: {found}")
    assert found.lost
    assert found.wrong_days
    assert tally.half_written


def run_in_two_steps(orders: Connection, environ: dict[str, str]) -> None:
    """The pipeline, but plays and days are not written together."""
    now: list[datetime] = []
    with open_pipeline(load_settings(environ), lambda: now[-1]) as pipeline:
        orders.send(Report())
        while True:
            order: Order = orders.recv()
            now.append(order.now)
            sync_users(pipeline, order.user_ids, [RECENTLY_PLAYED])
            outcomes = sync_users(pipeline, order.user_ids, REBUILT)
            orders.send(Report({o.user_id: (o.result, o.error_code) for o in outcomes}))


def test_the_harness_finds_days_that_are_not_written_together_with_their_plays(
    world: World, rng: Random
) -> None:
    # About one kill in three falls between the two; that 60 in a row miss is out of the question.
    tally = kill_again_and_again(world, run_in_two_steps, 60, rng, lambda seen: seen.half_written)
    assert tally.half_written


def test_the_user_of_a_dead_worker_is_free_again_after_half_a_minute(
    world: World, scale: Scale, figure: Figure
) -> None:
    if not scale.soak:
        pytest.skip("waits half a minute: make soak")
    (seconds,) = sync_in_peace(world, run_pipeline, 1)
    leases = text("SELECT count(*) FROM spotify_pipeline.sync_state WHERE lease_until > now()")
    held = 0
    while not held:
        with working(run_pipeline, world.environ) as [worker]:
            worker.order(world.order())
            worker.report(seconds / 2)
            world.note(worker.kill())
        with world.scenario.pipeline.engine.connect() as conn:
            held = conn.scalar(leases)
    died = monotonic()
    with working(run_pipeline, world.environ) as [worker]:
        worker.order(world.order(wait_seconds=2 * LEASE_SECONDS))
        report = worker.report()
        blocked = monotonic() - died
    assert report is not None
    assert report.synced == set(world.zones)
    figure(f"users of a dead worker were synced again {blocked:.1f} s after its death")
    assert blocked <= LEASE_SECONDS + RETRY_SECONDS + 5 * seconds
