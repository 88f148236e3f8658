"""Syncs a set of users: the one use case behind every job, command and request."""

from collections.abc import Generator, Sequence
from contextlib import closing

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.outcome import (
    BLOCKED,
    PROFILE_REVALIDATION,
    REBUILT,
    STEPS,
    StepFailure,
    UserOutcome,
)
from spotify_pipeline.storage.users.connection import (
    OUTAGE,
    reclassify_as_suspect,
    refresh_connection_states,
)
from spotify_pipeline.storage.users.queries import load_users
from spotify_pipeline.storage.work.leases import Lease, existing_users, leased, leased_users
from spotify_pipeline.sync.deliver import Emit, deliver
from spotify_pipeline.sync.fetch import BATCH_USERS, REQUESTED_USERS, fetch_users
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.write import write

BUSY = "Another sync of this user is still going on."


def sync_users(
    pipeline: Pipeline,
    user_ids: Sequence[str],
    steps: Sequence[str] = STEPS,
    *,
    wait_seconds: float = 0,
    scheduled: bool = False,
    retried: bool = False,
    emit: Emit | None = None,
    dispatch_key: str | None = None,
) -> list[UserOutcome]:
    """Bring the selected steps of these users up to date; one outcome per user, in their order.

    Waits up to `wait_seconds` for users whom another process is syncing, then skips them.
    `scheduled`: no user waits for it, so what was just fetched is not fetched again, and calls for
    requests go first. See `deliver` for `retried`, `emit` and `dispatch_key`. One user's
    failure touches no other. Raises only when Postgres cannot be reached, or ClockIsWrong.
    """
    # Again at each sync: the clock may have changed since the process began.
    pipeline.check_clock()
    user_ids = list(dict.fromkeys(user_ids))
    delivered: dict[str, UserOutcome] = {}

    def finish(outcomes: Sequence[UserOutcome]) -> None:
        # A user who was forgotten meanwhile is not delivered.
        with pipeline.engine.connect() as conn:
            existing = existing_users(conn, [outcome.user_id for outcome in outcomes])
        outcomes = [
            outcome if outcome.user_id in existing else UserOutcome(outcome.user_id, gone=True)
            for outcome in outcomes
        ]
        deliver(
            pipeline,
            outcomes,
            steps,
            scheduled=scheduled,
            retried=retried,
            emit=emit,
            dispatch_key=dispatch_key,
        )
        delivered.update({outcome.user_id: outcome for outcome in outcomes})

    with leased(
        pipeline.engine,
        user_ids,
        wait_seconds=wait_seconds,
        sleep=pipeline.sleep,
        monotonic=pipeline.monotonic,
    ) as lease:
        syncing = set[str]()
        if others := set(user_ids) - lease.held:
            with pipeline.engine.connect() as conn:
                syncing = leased_users(conn, others)
        # Delivered as soon as they are written, while the next ones are fetched.
        size = REQUESTED_USERS if dispatch_key else BATCH_USERS
        with closing(_fetch_and_write(pipeline, lease, steps, scheduled, size)) as written:
            for outcomes in written:
                lease.release([outcome.user_id for outcome in outcomes])
                finish(outcomes)
    if left := [user_id for user_id in user_ids if user_id not in delivered]:
        finish([UserOutcome(u, skipped=BUSY if u in syncing else BLOCKED) for u in left])
    return [delivered[user_id] for user_id in user_ids]


def rebuild_users(
    pipeline: Pipeline, user_ids: Sequence[str], *, wait_seconds: float = 0
) -> list[UserOutcome]:
    """Compute days and personality again from stored plays; the app is notified of changes.

    As `sync_users`, without a call to Spotify.
    """
    steps = (*REBUILT, PROFILE_REVALIDATION)
    return sync_users(pipeline, user_ids, steps, wait_seconds=wait_seconds, scheduled=True)


def _fetch_and_write(
    pipeline: Pipeline, lease: Lease, steps: Sequence[str], scheduled: bool, batch_users: int
) -> Generator[list[UserOutcome]]:
    # Read after the lease was taken: tokens and zones as they are now.
    with pipeline.engine.begin() as conn:
        refresh_connection_states(conn, sorted(lease.held))
        users = load_users(conn, lease.held)
    if not users:
        return
    with closing(fetch_users(pipeline, users, steps, scheduled, batch_users)) as batches:
        for batch in batches:
            outcomes = write(pipeline, lease, batch, steps)
            _mark_outage(pipeline, outcomes)
            yield outcomes


def _mark_outage(pipeline: Pipeline, outcomes: Sequence[UserOutcome]) -> None:
    """Turn RECONNECT into SPOTIFY_UNAVAILABLE for users refused in an outage."""
    refused = {o.user_id: o for o in outcomes if o.error_code == ErrorCode.RECONNECT}
    if not refused:
        return
    with pipeline.engine.begin() as conn:
        suspects = reclassify_as_suspect(conn, refused.keys())
    unavailable = StepFailure(ErrorCode.SPOTIFY_UNAVAILABLE, OUTAGE)
    for user_id in suspects:
        failures = refused[user_id].failures
        for step, failure in failures.items():
            if failure.code == ErrorCode.RECONNECT:
                failures[step] = unavailable
