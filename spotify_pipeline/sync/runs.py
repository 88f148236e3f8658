"""A sync of many users, cut into chunks that can run in any process.

The run's users and their outcomes are in sync_run_users; steps pass each other only the run's id
and a chunk's number.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from spotify_pipeline.domain.outcome import FETCHED, STEPS, UserOutcome
from spotify_pipeline.domain.quota import priority_of
from spotify_pipeline.storage.users.queries import has_user
from spotify_pipeline.storage.work import sync_runs
from spotify_pipeline.storage.work.leases import LEASE_SECONDS
from spotify_pipeline.storage.work.sync_runs import RunTotals, RunUser
from spotify_pipeline.sync.deliver import Emit
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.requests import SyncOptions, answer_requests
from spotify_pipeline.sync.users import sync_users

# The users were enlisted under the run's id before the run was launched.
ENLISTED = "enlisted"


class NoEnlistedUsers(Exception):
    """The run was to sync the users enlisted under its id, and there are none."""

    def __init__(self) -> None:
        super().__init__(
            "No user is enlisted under this run's id (any more). `enlisted` is for runs that "
            "`spotify-pipeline sync USER...` starts; here, choose active, due or eligible."
        )


def skip_reason(pipeline: Pipeline, selection: str, steps: Sequence[str]) -> str | None:
    """Why a scheduled run would do nothing, or None."""
    first = next((step for step in FETCHED if step in steps), None)
    closed = first and pipeline.rate_limiter.closed_to(priority_of(first, scheduled=True))
    if closed:
        return f"No call can be made now: {closed.what_happened}."
    with pipeline.engine.connect() as conn:
        if not has_user(conn, selection, pipeline.now()):
            return f"There is no user who is {selection}."
    return None


def choose(
    pipeline: Pipeline,
    run_id: str,
    selection: str,
    chunk_size: int,
    earlier_run_ids: Sequence[str] = (),
) -> int:
    """Enlist the users of the selection in chunks; return how many chunks.

    A re-execution without enlisted users of its own takes those of the run that it repeats. Raises
    NoEnlistedUsers when there are none.
    """
    with pipeline.engine.begin() as conn:
        if selection != ENLISTED:
            sync_runs.enlist_selection(conn, run_id, selection, pipeline.now(), chunk_size)
        elif not sync_runs.enlisted_again(conn, run_id, earlier_run_ids, chunk_size):
            raise NoEnlistedUsers
        return sync_runs.count_chunks(conn, run_id)


@contextmanager
def sync_chunk(
    pipeline: Pipeline,
    run_id: str,
    chunk: int,
    steps: Sequence[str] = STEPS,
    *,
    scheduled: bool = False,
    dispatch_key: str | None = None,
    emit: Emit | None = None,
) -> Iterator[list[UserOutcome]]:
    """Sync and deliver the users of one chunk who have no outcome yet.

    The outcomes are saved when the block has ended well: a caller that dies in it has the chunk
    tried again. A second try waits for users whose lease the dead process still holds, and delivers
    what that one has stored.
    """
    limiter = pipeline.rate_limiter
    began, calls, throttled = pipeline.monotonic(), limiter.calls, limiter.throttled_seconds
    with pipeline.engine.begin() as conn:
        retried = sync_runs.begin_chunk(conn, run_id, chunk) > 1
        user_ids = sync_runs.users_left(conn, run_id, chunk)
    options = SyncOptions(
        steps=steps,
        wait_seconds=LEASE_SECONDS + 1 if retried else 0,
        scheduled=scheduled,
        retried=retried,
        emit=emit,
    )
    if dispatch_key:
        outcomes = answer_requests(pipeline, dispatch_key, run_id, user_ids, **options)
    else:
        outcomes = sync_users(pipeline, user_ids, **options)
    yield outcomes
    saved = [RunUser(o.user_id, o.result, o.error_code, o.new_plays, o.seconds) for o in outcomes]
    with pipeline.engine.begin() as conn:
        sync_runs.save_outcomes(conn, run_id, saved)
        sync_runs.end_chunk(
            conn,
            run_id,
            chunk,
            seconds=pipeline.monotonic() - began,
            api_calls=limiter.calls - calls,
            throttled_seconds=limiter.throttled_seconds - throttled,
        )


def report(pipeline: Pipeline, run_id: str) -> RunTotals:
    """The run in numbers."""
    with pipeline.engine.connect() as conn:
        return sync_runs.totals(conn, run_id)
