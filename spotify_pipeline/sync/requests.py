"""Answers requests: what came of a sync becomes what their rows say."""

from collections.abc import Callable, Sequence

from spotify_pipeline.domain.codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.storage import requests
from spotify_pipeline.sync.gate import LONGEST_WAIT_SECONDS
from spotify_pipeline.sync.outcome import StepFailure, UserOutcome
from spotify_pipeline.sync.pipeline import Pipeline

# No call was made, or none may be made next: what the gate says is true for everybody.
HELD_BACK = (ErrorCode.RATE_LIMITED, ErrorCode.QUOTA_EXCEEDED, ErrorCode.APP_BLOCKED)


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
