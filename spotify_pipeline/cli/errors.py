"""Turns every error into one sentence on stderr and an exit code. Nothing else does.

What is expected is a PipelineError and says both itself. Of anything else only the type is shown,
and the redacted traceback goes into HOME/logs/last-error.log.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from spotify_pipeline.errors import INTERRUPTED, PipelineError, UsageError
from spotify_pipeline.redaction import redact

if TYPE_CHECKING:
    from spotify_pipeline.settings import Settings

NO_TERMINAL = (
    "This needs an answer, but no terminal is attached: run it on a terminal, or give the "
    "answer as an option (--help lists them)."
)


def report(error: BaseException) -> int:
    """Say on stderr what happened; return the exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader closed the pipe, as `| head` does. Keeps Python from reporting it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PipelineError.exit_code
    if isinstance(error, click.Abort):
        click.echo(err=True)  # it was asking something, on a line of its own
        if isinstance(error.__context__, EOFError):
            click.echo(f"Error: {NO_TERMINAL}", err=True)
            return UsageError.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        click.echo("Stopped.", err=True)
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        said = io.StringIO()
        error.show(said)
        click.echo(_shown(said.getvalue()), err=True, nl=False)
        return error.exit_code
    sentence, code = explain(error)
    click.echo(_shown(f"Error: {sentence}"), err=True)
    return code


def _shown(text: str) -> str:
    """Without secrets, and without what would steer the terminal."""
    from spotify_pipeline.terminal import printable_lines

    return printable_lines(redact(text))


def explain(error: BaseException) -> tuple[str, int]:
    """One sentence about an error, and the exit code; writes the log for an unexpected one."""
    for cause in _chain(error):
        if isinstance(cause, PipelineError):
            return redact(str(cause)), cause.exit_code
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            full = "The disk to which the output goes is full. Make room, then run it again."
            return full, PipelineError.exit_code
        if sentence := _of_argument(cause):
            return sentence, UsageError.exit_code
        if type(cause).__module__.startswith("sqlalchemy."):
            # Imported here because SQLAlchemy is slow to import; the error's raiser has done so.
            from spotify_pipeline.storage.postgres.errors import explain_database

            if explained := explain_database(cause, _settings()):
                return redact(explained[0]), explained[1]
    return redact(
        f"Something unexpected failed: {type(error).__name__}. {_log(error)}"
    ), PipelineError.exit_code


def _settings() -> "Settings | None":
    from spotify_pipeline.settings import ConfigurationError, load_settings

    try:
        return load_settings()
    except ConfigurationError:
        return None


def _of_argument(error: BaseException) -> str | None:
    """A sentence about what no system or database takes, or None."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "A file's name is longer than this system can have one. Correct the path."
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return "An argument has bytes that are no text in UTF-8. Write it in UTF-8."
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that caused it: Dagster wraps what its storage raises."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        yield current
        seen.add(id(current))
        current = current.__cause__


def _log(error: BaseException) -> str:
    """Write the traceback into the log; return where it is, in words."""
    from spotify_pipeline.home import private_file, private_folder
    from spotify_pipeline.settings import load_settings

    text = redact("".join(traceback.format_exception(error)))
    try:
        path = private_folder(load_settings().home, "logs") / "last-error.log"
        path.unlink(missing_ok=True)  # never follow a symlink that was planted there
        with private_file(path) as file:
            file.write(f"{datetime.now(UTC).isoformat()}\n{text}".encode(errors="backslashreplace"))
    except (PipelineError, OSError):
        return "No log could be written: run `spotify-pipeline doctor`."
    return f"The details are in {path}."
