"""Answers sync requests: syncs their users, waits for other syncs of them, and closes the rows."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.outcome import UserOutcome
from spotify_pipeline.storage.postgres.types import InterfaceError, OperationalError
from spotify_pipeline.storage.work import sync_requests, sync_runs
from spotify_pipeline.storage.work.leases import leased_users
from spotify_pipeline.sync.deliver import Emit, deliver
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.users import sync_users

# How long a request waits for another sync of the same user.
WAIT_SECONDS = 30.0


class SyncOptions(TypedDict, total=False):
    """The keywords of `sync_users` that its callers pass on."""

    steps: Sequence[str]
    wait_seconds: float
    scheduled: bool
    retried: bool
    emit: Emit | None


def answer_requests(
    pipeline: Pipeline,
    dispatch_key: str,
    run_id: str,
    user_ids: Sequence[str] | None = None,
    **options: Unpack[SyncOptions],
) -> list[UserOutcome]:
    """Sync the users (of `user_ids`) with a request under this key, and answer the requests.

    Does nothing for users without an open request under the key. A user whom another process is
    syncing is waited for, and not synced again if that sync did everything. Transient failures are
    tried again later; requests that have to wait longer than a run may are queued again. An
    exception closes the requests as INTERNAL and is raised; a killed process, or a lost Postgres,
    leaves them open for the reconciler.
    """
    with pipeline.engine.begin() as conn:
        asking = sync_requests.start(conn, dispatch_key, run_id, user_ids)
    try:
        outcomes = _sync_and_answer(pipeline, dispatch_key, asking, options)
        busy = [user_id for user_id, outcome in outcomes.items() if outcome.skipped]
        if busy:
            pipeline.wait_for(lambda conn: not leased_users(conn, busy), WAIT_SECONDS)
            outcomes |= _sync_and_answer(pipeline, dispatch_key, busy, options)
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


def enlist_requests(
    pipeline: Pipeline, dispatch_key: str, run_id: str, chunk_size: int = sync_runs.CHUNK_USERS
) -> None:
    """Enlist the users of these requests in the run, and mark the requests as running."""
    with pipeline.engine.connect() as conn:
        asking = [
            r.user_id for r in sync_requests.dispatched(conn) if r.dispatch_key == dispatch_key
        ]
    # A transaction each: users are locked before requests (deadlock).
    with pipeline.engine.begin() as conn:
        sync_runs.enlist(conn, run_id, asking, chunk_size)
    with pipeline.engine.begin() as conn:
        sync_requests.start(conn, dispatch_key, run_id)


def _sync_and_answer(
    pipeline: Pipeline, dispatch_key: str, user_ids: Sequence[str], options: SyncOptions
) -> dict[str, UserOutcome]:
    """Sync the users whom no other process has synced since they asked; answer all but the busy."""
    with pipeline.engine.connect() as conn:
        synced = set(sync_requests.synced_by_others(conn, dispatch_key)).intersection(user_ids)
    outcomes = [UserOutcome(user_id) for user_id in sorted(synced)]
    if outcomes:
        # The process that synced them may have died before it delivered.
        emit = options.get("emit")
        deliver(pipeline, outcomes, retried=True, emit=emit, dispatch_key=dispatch_key)
    if left := [user_id for user_id in user_ids if user_id not in synced]:
        outcomes += sync_users(pipeline, left, dispatch_key=dispatch_key, **options)
    return {outcome.user_id: outcome for outcome in outcomes}
