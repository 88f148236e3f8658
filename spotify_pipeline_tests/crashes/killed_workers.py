"""Kills or stops syncing workers, or their Postgres, at random moments, many times."""

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
from spotify_pipeline_tests.crashes.crash_scenario import CrashScenario
from spotify_pipeline_tests.crashes.oracle import read
from spotify_pipeline_tests.crashes.processes import Worker, running_workers
from spotify_pipeline_tests.crashes.worker import Program, Report, run_pipeline

# Time between two syncs.
SHORTEST_STEP, LONGEST_STEP = timedelta(minutes=5), timedelta(minutes=40)
LEASE = timedelta(seconds=30)
PATIENCE_SECONDS = 60.0
# The supervisor gives up on a Postgres that dies ten times in a row within 2 s of its start.
MIN_UPTIME_SECONDS = YOUNG_S + 0.5


@dataclass
class KillStats:
    """Counts of kills or stops, and the findings right after each."""

    kills: int = 0
    # Kills in the middle of a sync, and kills after which a lease was still held.
    interrupted: int = 0
    leases_held: int = 0
    # Days and top lists that were only partly written.
    half_written: list[str] = field(default_factory=list)
    # Results other than success, errors, or tables that must not have changed, with their number.
    unexpected: Counter[str] = field(default_factory=Counter)


def kill_workers_repeatedly(
    case: CrashScenario,
    program: Program,
    kills: int,
    rng: Random,
    enough: Callable[[KillStats], object] = lambda _: False,
) -> KillStats:
    """Kills a looping worker `kills` times, each time at a random point of about two syncs.

    After every kill the leases expire, as they would after 30 seconds, and a new worker starts.
    Ends with an undisturbed sync; stops killing once `enough` is true.
    """
    stats = KillStats()
    # Each by a new worker, because kills hit mostly the slower first sync of a worker.
    seconds = [took for _ in range(3) for took in sync_undisturbed(case, program, 1)]
    while stats.kills < kills and not enough(stats):
        with running_workers(program, case.environ) as [worker]:
            end = monotonic() + rng.uniform(0, 2 * median(seconds))
            finished = True
            while finished and monotonic() < end:
                started = monotonic()
                report = _sync_until(case, worker, end, rng)
                finished = report is not None
                if finished:
                    seconds.append(monotonic() - started)
            case.record(worker.kill())
        stats.interrupted += not finished
        _check_half_written(case, stats)
        _await_session_end(case)
        stats.leases_held += expire_leases(case) > 0
    sync_undisturbed(case, program, 1)
    return stats


def stop_workers_repeatedly(case: CrashScenario, stops: int, rng: Random) -> KillStats:
    """Fencing test: stops a worker in mid-sync, lets another take over, resumes the first.

    At least `stops` times, and until one stop had an effect: `interrupted` counts the workers whose
    users were all synced by the other meanwhile. Tables with rows of users that a resumed worker
    changed nevertheless are counted in `unexpected`.
    """
    stats = KillStats()
    seconds = median(sync_undisturbed(case, run_pipeline, 3))
    with running_workers(run_pipeline, case.environ, 2) as [first, second]:
        while stats.kills < stops or not stats.interrupted:
            assert stats.kills < 20 * stops, "no stop hits a worker before it writes"
            # Leases that a worker could not release, because their rows were locked.
            expire_leases(case)
            # Rather early: once the worker writes, its rows are locked and no other can take over.
            moment = monotonic() + rng.random() * rng.uniform(0, seconds)
            report = _sync_until(case, first, moment, rng)
            ordered_at = case.now
            first.stop()
            # A worker that has not begun holds no lease, so it may sync later.
            begun = expire_leases(case) == len(case.zones)
            stats.leases_held += begun
            case.advance(SHORTEST_STEP)
            second.order(case.order())
            # The second may have to wait for rows that the first has locked.
            taken_over = second.report(5 * seconds)
            stored = case.personal_rows()
            first.resume()
            if report is None:
                case.record(first.report(), ordered_at)
                if begun and taken_over and taken_over.synced == set(case.zones):
                    stats.interrupted += 1
                    now = case.personal_rows()
                    stats.unexpected.update(name for name in stored if stored[name] != now[name])
            case.record(taken_over or second.report())
            _check_half_written(case, stats)
    sync_undisturbed(case, run_pipeline, 1)
    return stats


def kill_postgres(home: Path) -> None:
    """Kills (SIGKILL) the embedded Postgres of a home; returns when all its sessions have ended.

    Sessions outlive the server for a moment, in which they can still commit.
    """
    server = embedded.running_server(home)
    assert server is not None
    postmaster = psutil.Process(server.pid)
    sessions = postmaster.children()
    postmaster.kill()
    psutil.wait_procs([postmaster, *sessions], timeout=10)


def kill_postgres_repeatedly(
    case: CrashScenario, kill: Callable[[], None], kills: int, rng: Random
) -> KillStats:
    """Kills Postgres at random points of a worker's syncs; the same worker then syncs again."""
    stats = KillStats()
    seconds = median(sync_undisturbed(case, run_pipeline, 3))
    with running_workers(run_pipeline, case.environ) as [worker]:
        while stats.kills < kills or not stats.interrupted:
            assert stats.kills < 20 * kills, "no kill hits a sync in its middle"
            report = _sync_until(case, worker, monotonic() + rng.uniform(0, seconds), rng)
            kill()
            if report is None:
                stats.interrupted += 1
                report = worker.report(PATIENCE_SECONDS)
                case.record(report)
            assert report is not None, "the worker hangs on the dead server"
            results = {code or result for result, code in report.results.values()} - {"synced"}
            stats.unexpected.update([report.error] if report.error else results)
            _await_postgres(case)
            back = monotonic()
            _check_half_written(case, stats)
            stats.leases_held += expire_leases(case) > 0
            _sync_and_check(case, worker)
            while monotonic() < back + MIN_UPTIME_SECONDS:
                _sync_and_check(case, worker)
    return stats


def sync_undisturbed(
    case: CrashScenario, program: Program, syncs: int, step: timedelta = SHORTEST_STEP
) -> list[float]:
    """Undisturbed syncs, `step` apart; returns the duration of each in seconds."""
    with running_workers(program, case.environ) as [worker]:
        return [_sync_and_check(case, worker, step) for _ in range(syncs)]


def expire_leases(case: CrashScenario) -> int:
    """Expires all leases whose rows no session has locked; returns their number."""
    with case.scenario.pipeline.engine.begin() as conn:
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


def _sync_until(case: CrashScenario, worker: Worker, end: float, rng: Random) -> Report | None:
    """Advances the clock and starts a sync; returns its report, or None if not done by `end`."""
    case.advance(SHORTEST_STEP + rng.random() * (LONGEST_STEP - SHORTEST_STEP))
    if rng.random() < 0.2:
        case.scenario.simulator.expire_access_tokens()
    worker.order(case.order())
    report = worker.report(end - monotonic())
    case.record(report)
    return report


def _sync_and_check(case: CrashScenario, worker: Worker, step: timedelta = SHORTEST_STEP) -> float:
    case.advance(step)
    started = monotonic()
    worker.order(case.order())
    report = worker.report()
    assert report is not None, "an undisturbed sync does not end"
    assert report.synced == set(case.zones), report
    case.record(report)
    return monotonic() - started


def _check_half_written(case: CrashScenario, stats: KillStats) -> None:
    stats.kills += 1
    stats.half_written += read(case.scenario.pipeline.engine).half_written(case.zones)


def _await_postgres(case: CrashScenario) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    engine = case.scenario.pipeline.engine
    # A session of the killed server may exist for a moment; a new connection is the new server's.
    engine.dispose()
    while True:
        try:
            engine.connect().close()
        except OperationalError:
            assert monotonic() < deadline, "Postgres does not come back"
            sleep(0.05)
        else:
            return


def _await_session_end(case: CrashScenario) -> None:
    """Waits for the end of the killed worker's Postgres sessions: a statement may still run."""
    others = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    deadline = monotonic() + PATIENCE_SECONDS
    with case.scenario.pipeline.engine.connect() as conn:
        while conn.scalar(others):
            assert monotonic() < deadline, "the killed worker's session goes on"
            conn.rollback()
            sleep(0.005)
