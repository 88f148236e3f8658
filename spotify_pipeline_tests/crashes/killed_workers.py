"""Lets workers sync again and again, and kills or stops them again and again."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic, sleep

import psutil
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.embedded.supervisor import YOUNG_S
from spotify_pipeline_tests.crashes.crash_scenario import World
from spotify_pipeline_tests.crashes.oracle import read
from spotify_pipeline_tests.crashes.processes import Worker, working
from spotify_pipeline_tests.crashes.worker import Program, Report, run_pipeline

# Between two syncs.
SHORTEST_STEP, LONGEST_STEP = timedelta(minutes=5), timedelta(minutes=40)
LEASE = timedelta(seconds=30)
PATIENCE_SECONDS = 60.0
# Its supervisor gives up a Postgres that dies ten times in a row within 2 s of its start.
GROWN_UP_SECONDS = YOUNG_S + 0.5


@dataclass
class Tally:
    """What was done to the workers, and what was seen right afterwards."""

    blows: int = 0
    # Blows that hit a sync in its middle; blows after which a lease was still held.
    unfinished: int = 0
    held: int = 0
    # Days and lists that were not whole.
    half_written: list[str] = field(default_factory=list)
    # What a worker said that was not the success of everybody.
    said: Counter[str] = field(default_factory=Counter)


def kill_again_and_again(
    world: World,
    program: Program,
    kills: int,
    rng: Random,
    enough: Callable[[Tally], object] = lambda _: False,
) -> Tally:
    """Kill a looping worker `kills` times, each time at a random point of about two syncs.

    After every kill the leases run out, as they would after 30 seconds, and a new worker starts.
    Ends with a sync that nobody disturbs, before all kills as soon as `enough` was seen.
    """
    tally = Tally()
    # Each by a new worker: the first sync of one takes longest, and it is what is mostly killed.
    seconds = [took for _ in range(3) for took in sync_in_peace(world, program, 1)]
    while tally.blows < kills and not enough(tally):
        with working(program, world.environ) as [worker]:
            end = monotonic() + rng.uniform(0, 2 * median(seconds))
            finished = True
            while finished and monotonic() < end:
                started = monotonic()
                report = _sync_until(world, worker, end, rng)
                finished = report is not None
                if finished:
                    seconds.append(monotonic() - started)
            world.note(worker.kill())
        tally.unfinished += not finished
        _look(world, tally)
        _bury(world)
        tally.held += expire_leases(world) > 0
    sync_in_peace(world, program, 1)
    return tally


def stop_again_and_again(world: World, stops: int, rng: Random) -> Tally:
    """Stop a worker in the middle of a sync, let another take over, let the first go on.

    At least `stops` times, and until one of them mattered: `unfinished` counts the workers whose
    users were all synced by the other meanwhile. What they changed all the same of what is stored
    about people goes into `said`.
    """
    tally = Tally()
    seconds = median(sync_in_peace(world, run_pipeline, 3))
    with working(run_pipeline, world.environ, 2) as [first, second]:
        while tally.blows < stops or not tally.unfinished:
            assert tally.blows < 20 * stops, "no stop hits a worker before it writes"
            # Rather early: once it writes, its rows are locked and nobody takes over.
            moment = monotonic() + rng.random() * rng.uniform(0, seconds)
            report = _sync_until(world, first, moment, rng)
            ordered_at = world.now
            first.stop()
            # Who has not begun is no dead worker: it may do its sync later.
            begun = expire_leases(world) == len(world.zones)
            tally.held += begun
            world.move(SHORTEST_STEP)
            second.order(world.order())
            # It may have to wait for rows that the first has locked.
            taken_over = second.report(5 * seconds)
            stored = world.about_people()
            first.go_on()
            if report is None:
                world.note(first.report(), ordered_at)
                if begun and taken_over and taken_over.synced == set(world.zones):
                    tally.unfinished += 1
                    now = world.about_people()
                    tally.said.update(name for name in stored if stored[name] != now[name])
            world.note(taken_over or second.report())
            _look(world, tally)
    sync_in_peace(world, run_pipeline, 1)
    return tally


def kill_postgres(home: Path) -> None:
    """SIGKILL for the embedded Postgres of a home, over once nobody is served any more.

    Sessions outlive the server for a moment, in which they can still commit.
    """
    server = embedded.running_server(home)
    assert server is not None
    postmaster = psutil.Process(server.pid)
    sessions = postmaster.children()
    postmaster.kill()
    psutil.wait_procs([postmaster, *sessions], timeout=10)


def kill_postgres_again_and_again(
    world: World, kill: Callable[[], None], kills: int, rng: Random
) -> Tally:
    """Kill the server at random points of a worker's syncs; the worker stays, and syncs again."""
    tally = Tally()
    seconds = median(sync_in_peace(world, run_pipeline, 3))
    with working(run_pipeline, world.environ) as [worker]:
        while tally.blows < kills or not tally.unfinished:
            assert tally.blows < 20 * kills, "no kill hits a sync in its middle"
            report = _sync_until(world, worker, monotonic() + rng.uniform(0, seconds), rng)
            kill()
            if report is None:
                tally.unfinished += 1
                report = worker.report(PATIENCE_SECONDS)
                world.note(report)
            assert report is not None, "the worker hangs on the dead server"
            words = {code or result for result, code in report.results.values()} - {"synced"}
            tally.said.update([report.error] if report.error else words)
            _await_postgres(world)
            back = monotonic()
            _look(world, tally)
            tally.held += expire_leases(world) > 0
            _sync_well(world, worker)
            while monotonic() < back + GROWN_UP_SECONDS:
                _sync_well(world, worker)
    return tally


def sync_in_peace(
    world: World, program: Program, syncs: int, step: timedelta = SHORTEST_STEP
) -> list[float]:
    """Syncs that nobody disturbs, `step` apart; returns how long each of them took, in seconds."""
    with working(program, world.environ) as [worker]:
        return [_sync_well(world, worker, step) for _ in range(syncs)]


def expire_leases(world: World) -> int:
    """Half a minute passes for all leases that nobody has locked; returns how many there were."""
    with world.scenario.pipeline.engine.begin() as conn:
        left = conn.scalars(
            text(
                "UPDATE spotify_pipeline.sync_state AS s SET lease_until = now() - interval '1 ms'"
                " FROM (SELECT user_id, lease_until - now() AS left"
                "  FROM spotify_pipeline.sync_state WHERE lease_until > now()"
                "  FOR UPDATE SKIP LOCKED) AS held"
                " WHERE s.user_id = held.user_id RETURNING held.left"
            )
        ).all()
    assert max(left, default=LEASE) <= LEASE
    return len(left)


def _sync_until(world: World, worker: Worker, end: float, rng: Random) -> Report | None:
    """Some time passes and a sync begins; what it reports, if it does so before `end`."""
    world.move(SHORTEST_STEP + rng.random() * (LONGEST_STEP - SHORTEST_STEP))
    if rng.random() < 0.2:
        world.scenario.simulator.expire_access_tokens()
    worker.order(world.order())
    report = worker.report(end - monotonic())
    world.note(report)
    return report


def _sync_well(world: World, worker: Worker, step: timedelta = SHORTEST_STEP) -> float:
    world.move(step)
    started = monotonic()
    worker.order(world.order())
    report = worker.report()
    assert report is not None, "a sync that nobody disturbs does not end"
    assert report.synced == set(world.zones), report
    world.note(report)
    return monotonic() - started


def _look(world: World, tally: Tally) -> None:
    tally.blows += 1
    tally.half_written += read(world.scenario.pipeline.engine).half_written(world.zones)


def _await_postgres(world: World) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    engine = world.scenario.pipeline.engine
    # A session of the killed server may live on for a moment; a new one is the new server's.
    engine.dispose()
    while True:
        try:
            engine.connect().close()
        except OperationalError:
            assert monotonic() < deadline, "Postgres does not come back"
            sleep(0.05)
        else:
            return


def _bury(world: World) -> None:
    """Waits until Postgres has noticed that the worker is dead: its last statement may go on."""
    others = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    deadline = monotonic() + PATIENCE_SECONDS
    with world.scenario.pipeline.engine.connect() as conn:
        while conn.scalar(others):
            assert monotonic() < deadline, "the dead worker's session goes on"
            conn.rollback()
            sleep(0.005)
