"""Syncs a set of users: the one use case behind every job, command and request."""

import logging
from collections.abc import Sequence
from contextlib import closing

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.steps import PROFILE_REVALIDATION, REBUILT, STEPS
from spotify_pipeline.storage.users.connection import (
    OUTAGE,
    reclassify_as_suspect,
    refresh_connection_states,
)
from spotify_pipeline.storage.users.queries import load_users
from spotify_pipeline.storage.work.leases import Lease, leased, leased_users
from spotify_pipeline.sync.fetch import collect
from spotify_pipeline.sync.outcome import BLOCKED, StepFailure, UserOutcome
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.replay import replay
from spotify_pipeline.sync.revalidate import revalidate
from spotify_pipeline.sync.write import write

log = logging.getLogger(__name__)

BUSY = "Another sync of this user is still going on."


def sync_users(
    pipeline: Pipeline,
    user_ids: Sequence[str],
    steps: Sequence[str] = STEPS,
    *,
    wait_seconds: float = 0,
    scheduled: bool = False,
    retried: bool = False,
) -> list[UserOutcome]:
    """Bring the selected steps of these users up to date; one outcome per user, in their order.

    Waits up to `wait_seconds` for users that somebody else is syncing, then leaves them out as
    skipped. `scheduled`: nobody waits for it, so what was fetched a short while ago is not fetched
    again, calls that somebody waits for go first, and the app is told of changes only. `retried`:
    a process that did this before may have died before it told what it had stored, so that is told
    now. One user's failure touches no other. Raises only when Postgres cannot be reached, or
    ClockIsWrong.
    """
    # Again at each sync: the clock may have changed since the process began.
    pipeline.check_clock()
    with leased(
        pipeline.engine,
        user_ids,
        wait_seconds=wait_seconds,
        sleep=pipeline.sleep,
        monotonic=pipeline.monotonic,
    ) as lease:
        with pipeline.engine.connect() as conn:
            syncing = leased_users(conn, set(user_ids) - lease.held)
        outcomes = {o.user_id: o for o in _sync_held(pipeline, lease, steps, scheduled, retried)}
        with pipeline.engine.connect() as conn:
            known = {listener.user_id for listener in load_users(conn, user_ids)}
    for user_id in user_ids:
        if user_id not in known:
            outcomes[user_id] = UserOutcome(user_id, gone=True)
        elif user_id not in outcomes:
            why = BUSY if user_id in syncing else BLOCKED
            outcomes[user_id] = UserOutcome(user_id, skipped=why)
    return [outcomes[user_id] for user_id in dict.fromkeys(user_ids)]


def rebuild_users(
    pipeline: Pipeline, user_ids: Sequence[str], *, wait_seconds: float = 0
) -> list[UserOutcome]:
    """Compute days and personality again from stored plays; the app is told of what changed.

    As `sync_users`, without a call to Spotify.
    """
    steps = (*REBUILT, PROFILE_REVALIDATION)
    return sync_users(pipeline, user_ids, steps, wait_seconds=wait_seconds, scheduled=True)


def _sync_held(
    pipeline: Pipeline, lease: Lease, steps: Sequence[str], scheduled: bool, retried: bool
) -> list[UserOutcome]:
    # Read after the lease was taken: tokens and zones as they are now.
    with pipeline.engine.begin() as conn:
        refresh_connection_states(conn, sorted(lease.held))
        listeners = load_users(conn, lease.held)
    if not listeners:
        return []
    outcomes: list[UserOutcome] = []
    with closing(collect(pipeline, listeners, steps, scheduled)) as parts:
        for part in parts:
            outcomes += write(pipeline, lease, part, steps)
    _acquit(pipeline, outcomes)
    if retried:
        replay(pipeline, outcomes, steps)
    if PROFILE_REVALIDATION in steps:
        revalidate(pipeline, [one for one in outcomes if _concerns_app(one, scheduled)])
    return outcomes


def _concerns_app(outcome: UserOutcome, scheduled: bool) -> bool:
    """Whether the app may show something new: when somebody asked, at least that it was done."""
    if outcome.gone:
        return False
    return bool(outcome.news if scheduled else outcome.done or not outcome.failures)


def _acquit(pipeline: Pipeline, outcomes: Sequence[UserOutcome]) -> None:
    """Take RECONNECT back from users whose refusal turned out to be part of an outage."""
    accused = {o.user_id: o for o in outcomes if o.error_code == ErrorCode.RECONNECT}
    if not accused:
        return
    with pipeline.engine.begin() as conn:
        suspects = reclassify_as_suspect(conn, accused.keys())
    unavailable = StepFailure(ErrorCode.SPOTIFY_UNAVAILABLE, OUTAGE)
    for user_id in suspects:
        failures = accused[user_id].failures
        for step, failure in failures.items():
            if failure.code == ErrorCode.RECONNECT:
                failures[step] = unavailable
