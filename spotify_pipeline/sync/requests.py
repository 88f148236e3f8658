"""Answers requests: what came of a sync becomes what their rows say."""

from collections.abc import Callable, Sequence

from sqlalchemy.exc import InterfaceError, OperationalError

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.storage.work import sync_requests, sync_runs
from spotify_pipeline.storage.work.leases import RETRY_SECONDS, leased_users
from spotify_pipeline.storage.work.sync_requests import Failure
from spotify_pipeline.sync.outcome import UserOutcome
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.rate_limiter import LONGEST_WAIT_SECONDS
from spotify_pipeline.sync.replay import replay
from spotify_pipeline.sync.revalidate import revalidate

# No call was made, or none may be made next: what the gate says is true for everybody.
HELD_BACK = (ErrorCode.RATE_LIMITED, ErrorCode.QUOTA_EXCEEDED, ErrorCode.APP_BLOCKED)

# What may pass by itself. Everything else is told at once: it wants a person.
MAY_PASS = (
    ErrorCode.SPOTIFY_UNAVAILABLE,
    ErrorCode.BAD_RESPONSE,
    ErrorCode.CRASHED,
    ErrorCode.RATE_LIMITED,
    ErrorCode.QUOTA_EXCEEDED,
)

# How long a request waits for another sync of the same user.
WAIT_SECONDS = 30.0

# How long after it a request is seen by who waits for one.
LOOK_SECONDS = 0.2

# Syncs these users without waiting for those whom somebody else is syncing.
Work = Callable[[Sequence[str]], list[UserOutcome]]
# Hears what came of users, before that is written down: whose request is answered is not looked
# after again should this process die.
Emit = Callable[[Sequence[UserOutcome]], None]


def no_emit(_: Sequence[UserOutcome]) -> None:
    """Whoever asked for the work tells what came of it."""


def answer_requests(
    pipeline: Pipeline,
    dispatch_key: str,
    run_id: str,
    work: Work,
    user_ids: Sequence[str] | None = None,
    emit: Emit = no_emit,
) -> list[UserOutcome]:
    """Do the work that these requests (of these users) asked for; write down what came of each.

    Nothing is done for users without an open request under this key. Whoever is synced by somebody
    else is waited for, and done if that sync was one of everything. What may pass is tried again
    later; who has to wait longer than a run may is queued again. `tell` hears of everybody before
    the answer. An exception closes the requests as INTERNAL and goes on its way; a killed process,
    or a lost Postgres, leaves them open for the reconciler.
    """
    with pipeline.engine.begin() as conn:
        asking = sync_requests.start(conn, dispatch_key, run_id, user_ids)
    try:
        outcomes = _answer(pipeline, dispatch_key, asking, work, emit)
        busy = [user_id for user_id, outcome in outcomes.items() if outcome.skipped]
        if busy:
            _await_others(pipeline, busy)
            outcomes |= _answer(pipeline, dispatch_key, busy, work, emit)
            for user_id in busy:
                if why := outcomes[user_id].skipped:
                    still_busy = (ErrorCode.INTERNAL, f"{why} Ask for it again.")
                    with pipeline.engine.begin() as conn:
                        sync_requests.retry(conn, dispatch_key, still_busy, [user_id])
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        with pipeline.engine.begin() as conn:
            sync_requests.close_open(conn, dispatch_key, ErrorCode.INTERNAL, asking)
        raise
    return [
        outcomes.get(user_id) or UserOutcome(user_id, skipped="The request was answered before.")
        for user_id in (asking if user_ids is None else user_ids)
    ]


def await_request(pipeline: Pipeline, seconds: float) -> None:
    """Return when a request waits for its key, or after so long a wait."""
    deadline = pipeline.monotonic() + seconds
    # Without a transaction that stays open meanwhile.
    engine = pipeline.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        while not sync_requests.any_waiting(conn) and pipeline.monotonic() < deadline:
            pipeline.sleep(LOOK_SECONDS)


def enlist_requests(pipeline: Pipeline, dispatch_key: str, run_id: str) -> None:
    """Note the users of these requests as the run's, and say that it has begun."""
    with pipeline.engine.connect() as conn:
        asking = [
            r.user_id for r in sync_requests.dispatched(conn) if r.dispatch_key == dispatch_key
        ]
    # A transaction each: users are locked before requests (deadlock).
    with pipeline.engine.begin() as conn:
        sync_runs.enlist(conn, run_id, asking)
    with pipeline.engine.begin() as conn:
        sync_requests.start(conn, dispatch_key, run_id)


def _answer(
    pipeline: Pipeline, dispatch_key: str, user_ids: Sequence[str], work: Work, emit: Emit
) -> dict[str, UserOutcome]:
    """Do the work for those for whom nobody has done it, and answer all who were not busy."""
    with pipeline.engine.connect() as conn:
        synced = set(sync_requests.synced_by_others(conn, dispatch_key)).intersection(user_ids)
    done = [UserOutcome(user_id) for user_id in sorted(synced)]
    if done:
        # Whoever did it may have died before the app was told, or Dagster.
        replay(pipeline, done)
        revalidate(pipeline, done)
        emit(done)
        _write_answers(pipeline, dispatch_key, done)
    if left := [user_id for user_id in user_ids if user_id not in synced]:
        outcomes = work(left)
        emit(outcomes)
        _write_answers(pipeline, dispatch_key, [one for one in outcomes if not one.skipped])
        done += outcomes
    return {outcome.user_id: outcome for outcome in done}


def _write_answers(pipeline: Pipeline, dispatch_key: str, outcomes: Sequence[UserOutcome]) -> None:
    """Write down what these outcomes mean for the requests: a transaction for each that differs.

    A transaction over all would lock users out of their order (deadlock).
    """
    waiting = _held_back(pipeline, outcomes)
    verdicts: dict[Failure | None, list[str]] = {}
    for outcome in outcomes:
        if outcome.user_id not in waiting:
            verdicts.setdefault(_verdict(outcome), []).append(outcome.user_id)
    if waiting:
        with pipeline.engine.begin() as conn:
            sync_requests.put_back(conn, dispatch_key, waiting)
    for verdict, users in verdicts.items():
        with pipeline.engine.begin() as conn:
            if verdict and verdict[0] in MAY_PASS:
                sync_requests.retry(conn, dispatch_key, verdict, users)
            else:
                sync_requests.finish(conn, dispatch_key, verdict, users)


def _await_others(pipeline: Pipeline, user_ids: Sequence[str]) -> None:
    """Return when nobody syncs these users any more, or after so long a wait."""
    deadline = pipeline.monotonic() + WAIT_SECONDS
    while pipeline.monotonic() < deadline:
        with pipeline.engine.connect() as conn:
            if not leased_users(conn, user_ids):
                return
        pipeline.sleep(RETRY_SECONDS)


def _held_back(pipeline: Pipeline, outcomes: Sequence[UserOutcome]) -> set[str]:
    """The users who were not synced because nobody can be for now, and not soon."""
    refused = {outcome.user_id for outcome in outcomes if outcome.error_code in HELD_BACK}
    closed = pipeline.rate_limiter.closed_to("request") if refused else None
    # A short pause was waited out in vain: that counts as an attempt.
    return refused if closed and closed.seconds > LONGEST_WAIT_SECONDS else set()


def _verdict(outcome: UserOutcome) -> Failure | None:
    """The failure that speaks for the request: one that wants a person before one that may pass."""
    failures = list(outcome.failures.values())
    if not failures:
        return None
    told = next((failure for failure in failures if failure.code not in MAY_PASS), failures[0])
    return told.code, told.what_to_do or WHAT_TO_DO[told.code]
