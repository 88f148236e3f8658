"""A sync of many users, cut into chunks that can run in any process.

Who belongs to the run and how it went stands in sync_run_users; the parts pass each other only the
run's id and a chunk's number.
"""

from collections.abc import Sequence

from spotify_pipeline.domain.budget import priority_of
from spotify_pipeline.domain.steps import FETCHED, STEPS
from spotify_pipeline.storage import runs
from spotify_pipeline.storage.people import any_user, select_users
from spotify_pipeline.storage.runs import RunTotals, RunUser
from spotify_pipeline.sync.outcome import UserOutcome
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.users import sync_users

# The users were enlisted under the run's id by whoever asked for the run.
ENLISTED = "enlisted"


def why_not_now(pipeline: Pipeline, selection: str, steps: Sequence[str]) -> str | None:
    """Why a scheduled run would be for nothing, or None."""
    first = next((step for step in FETCHED if step in steps), None)
    closed = first and pipeline.gate.closed_to(priority_of(first, scheduled=True))
    if closed:
        return f"No call can be made now: {closed.what_happened}."
    with pipeline.engine.connect() as conn:
        if not any_user(conn, selection, pipeline.now()):
            return f"There is no user who is {selection}."
    return None


def choose(pipeline: Pipeline, run_id: str, selection: str, chunk_size: int) -> int:
    """Enlist the users of the selection and cut them into chunks; return how many chunks."""
    with pipeline.engine.begin() as conn:
        if selection != ENLISTED:
            runs.enlist(conn, run_id, select_users(conn, selection, pipeline.now()))
        return runs.cut_chunks(conn, run_id, chunk_size)


def sync_chunk(
    pipeline: Pipeline,
    run_id: str,
    chunk: int,
    steps: Sequence[str] = STEPS,
    *,
    scheduled: bool = False,
) -> list[UserOutcome]:
    """Sync the users of one chunk and write down each one's outcome."""
    with pipeline.engine.connect() as conn:
        user_ids = runs.chunk_users(conn, run_id, chunk)
    outcomes = sync_users(pipeline, user_ids, steps, scheduled=scheduled)
    with pipeline.engine.begin() as conn:
        runs.save_outcomes(
            conn,
            run_id,
            [RunUser(o.user_id, o.result, o.error_code, o.new_plays, o.seconds) for o in outcomes],
        )
    return outcomes


def report(pipeline: Pipeline, run_id: str) -> RunTotals:
    """The run in numbers."""
    with pipeline.engine.connect() as conn:
        return runs.totals(conn, run_id)
