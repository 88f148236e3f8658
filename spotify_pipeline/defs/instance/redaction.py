"""Removes secrets from the errors that Dagster keeps in its event log and shows to everybody."""

from traceback import TracebackException
from typing import Any

from spotify_pipeline import redaction
from spotify_pipeline.defs.instance.dagster_private import SerializableErrorInfo

_from_traceback = SerializableErrorInfo.from_traceback


def install() -> None:
    """Redact this process's log lines, last words, and errors on their way into Dagster.

    Dagster turns every exception into text in one place, for runs, ticks and its own log alike. Its
    own switch for this hides the errors of user code altogether. Safe to repeat.
    """
    redaction.install()
    SerializableErrorInfo.from_traceback = staticmethod(_redacted)  # type: ignore[method-assign,assignment]


def _redacted(trace: TracebackException) -> Any:
    # Causes come through here by themselves, each before the error that it caused.
    error = _from_traceback(trace)
    return error._replace(
        message=redaction.redact(error.message),
        stack=[redaction.redact(line) for line in error.stack],
    )
