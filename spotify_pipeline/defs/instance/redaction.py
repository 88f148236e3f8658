"""Redacts secrets in the errors that Dagster stores in its event log and shows in the UI."""

from traceback import TracebackException
from typing import Any

from spotify_pipeline import redaction
from spotify_pipeline.defs.instance.dagster_private import SerializableErrorInfo

_from_traceback = SerializableErrorInfo.from_traceback


def install() -> None:
    """Redact this process's log lines, uncaught exceptions, and errors stored by Dagster.

    Patches the one function in which Dagster turns exceptions into text, for runs, ticks and its
    log. Dagster's own setting hides errors of user code altogether. Idempotent.
    """
    redaction.install()
    SerializableErrorInfo.from_traceback = staticmethod(_redacted)  # type: ignore[method-assign,assignment]


def _redacted(trace: TracebackException) -> Any:
    # Dagster calls this for every cause too, before the error that it caused.
    error = _from_traceback(trace)
    return error._replace(
        message=redaction.redact(error.message),
        stack=[redaction.redact(line) for line in error.stack],
    )
