"""Syncs a set of users: the one use case behind every job, command and request."""

import logging
from collections.abc import Callable, Sequence

from spotify_pipeline.domain.codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.steps import PROFILE_REVALIDATION, STEPS
from spotify_pipeline.storage import requests
from spotify_pipeline.storage.connections import OUTAGE, acquitted, settle_connections
from spotify_pipeline.storage.leases import Lease, leased
from spotify_pipeline.storage.people import load_listeners
from spotify_pipeline.sync.collect import collect
from spotify_pipeline.sync.gate import LONGEST_WAIT_SECONDS
from spotify_pipeline.sync.outcome import StepFailure, UserOutcome, still_possible
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.revalidate import revalidate
from spotify_pipeline.sync.write import write

log = logging.getLogger(__name__)

# No call was made, or none may be made next: what the gate says is true for everybody.
HELD_BACK = (ErrorCode.RATE_LIMITED, ErrorCode.QUOTA_EXCEEDED, ErrorCode.APP_BLOCKED)

BUSY = "Another sync of this user is still going on."


def sync_users(
    pipeline: Pipeline,
    user_ids: Sequence[str],
    steps: Sequence[str] = STEPS,
    *,
    wait_seconds: float = 0,
    scheduled: bool = False,
) -> list[UserOutcome]:
    """Bring the selected steps of these users up to date; one outcome per user, in their order.

    Waits up to `wait_seconds` for users that somebody else is syncing, then leaves them out as
    skipped. `scheduled`: nobody waits for it, so what was fetched a short while ago is not fetched
    again, and calls that somebody waits for go first. One user's failure touches no other. Raises
    only when Postgres cannot be reached.
    """
    with leased(
        pipeline.engine,
        user_ids,
        wait_seconds=wait_seconds,
        sleep=pipeline.sleep,
        monotonic=pipeline.monotonic,
    ) as lease:
        outcomes = {o.user_id: o for o in _sync_held(pipeline, lease, steps, scheduled)}
        with pipeline.engine.connect() as conn:
            known = {listener.user_id for listener in load_listeners(conn, user_ids)}
    for user_id in user_ids:
        if user_id not in known:
            outcomes[user_id] = UserOutcome(user_id, gone=True)
        elif user_id not in outcomes:
            outcomes[user_id] = UserOutcome(user_id, skipped=BUSY)
    return [outcomes[user_id] for user_id in dict.fromkeys(user_ids)]


def _sync_held(
    pipeline: Pipeline, lease: Lease, steps: Sequence[str], scheduled: bool
) -> list[UserOutcome]:
    # Read after the lease was taken: tokens and zones as they are now.
    with pipeline.engine.begin() as conn:
        settle_connections(conn, sorted(lease.held))
        listeners = load_listeners(conn, lease.held)
    if not listeners:
        return []
    outcomes = write(pipeline, lease, collect(pipeline, listeners, steps, scheduled), steps)
    _acquit(pipeline, outcomes)
    ready = [
        outcome
        for outcome in outcomes
        if not outcome.gone and PROFILE_REVALIDATION in still_possible(outcome.failures, steps)
    ]
    revalidate(pipeline, ready)
    return outcomes


def _acquit(pipeline: Pipeline, outcomes: Sequence[UserOutcome]) -> None:
    """Take RECONNECT back from users whose refusal turned out to be part of an outage."""
    accused = {o.user_id: o for o in outcomes if o.error_code == ErrorCode.RECONNECT}
    if not accused:
        return
    with pipeline.engine.begin() as conn:
        suspects = acquitted(conn, accused.keys())
    unavailable = StepFailure(ErrorCode.SPOTIFY_UNAVAILABLE, OUTAGE)
    for user_id in suspects:
        failures = accused[user_id].failures
        for step, failure in failures.items():
            if failure.code == ErrorCode.RECONNECT:
                failures[step] = unavailable


def answer_requests(
    pipeline: Pipeline,
    dispatch_key: str,
    run_id: str,
    work: Callable[[], list[UserOutcome]],
) -> list[UserOutcome]:
    """Do the work that these requests asked for and close them with what came of it.

    Those that have to wait longer than a run may are queued again. An exception closes them as
    INTERNAL and goes on its way; a killed process leaves them open for the reconciler.
    """
    with pipeline.engine.begin() as conn:
        requests.start(conn, dispatch_key, run_id)
    try:
        outcomes = work()
    except Exception:
        with pipeline.engine.begin() as conn:
            requests.close_open(conn, [dispatch_key], ErrorCode.INTERNAL)
        raise
    waiting = _held_back(pipeline, outcomes)
    verdicts = {o.user_id: _verdict(o) for o in outcomes if o.user_id not in waiting}
    with pipeline.engine.begin() as conn:
        requests.put_back(conn, dispatch_key, waiting)
        requests.finish(conn, dispatch_key, verdicts)
    return outcomes


def _held_back(pipeline: Pipeline, outcomes: Sequence[UserOutcome]) -> set[str]:
    """The users who were not synced because nobody can be for now, and not soon."""
    refused = {outcome.user_id for outcome in outcomes if outcome.error_code in HELD_BACK}
    closed = pipeline.gate.closed_to("request") if refused else None
    # A short pause was waited out in vain: then it is better to tell the person.
    return refused if closed and closed.seconds > LONGEST_WAIT_SECONDS else set()


def _verdict(outcome: UserOutcome) -> tuple[ErrorCode, str] | None:
    if outcome.skipped:
        return ErrorCode.INTERNAL, f"{outcome.skipped} Ask for it again."
    failure: StepFailure | None = outcome.failure
    return (failure.code, WHAT_TO_DO[failure.code]) if failure else None
