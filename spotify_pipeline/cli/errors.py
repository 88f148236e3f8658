"""Turns every error into one sentence on stderr and an exit code. Nothing else does.

    WrongUsage    the person asked for something that cannot be: exit 2
    WorkFailed    what was asked for was tried and did not succeed: exit 1

A sentence names no secret; what is unexpected is told by its type only, and its traceback goes,
scrubbed, into HOME/logs/last-error.log.
"""

import io
import os
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from spotify_pipeline.cli.main import INTERRUPTED
from spotify_pipeline.redaction import scrub

FAILED = 1
WRONG_USAGE = 2

NOBODY_ANSWERS = (
    "This wants an answer, and nobody is there to give one: run it on a terminal, or give the "
    "answer as an option (--help lists them)."
)

# By name and not by class: importing them all would take longer than most commands.
EXIT_CODES = {
    "spotify_pipeline.cli.errors.WrongUsage": WRONG_USAGE,
    "spotify_pipeline.cli.errors.WorkFailed": FAILED,
    "spotify_pipeline.cli.local.dagster_processes.StackFailed": FAILED,
    "spotify_pipeline.domain.zones.UnknownZone": WRONG_USAGE,
    "spotify_pipeline.domain.sealing.SealError": FAILED,
    "spotify_pipeline.settings.ConfigurationError": WRONG_USAGE,
    "spotify_pipeline.simulator.control.SimulatorError": FAILED,
    "spotify_pipeline.storage.postgres.engine.BadDatabaseUrl": WRONG_USAGE,
    "spotify_pipeline.storage.postgres.engine.UnsupportedServer": WRONG_USAGE,
    "spotify_pipeline.storage.embedded.home.EmbeddedPostgresError": FAILED,
    "spotify_pipeline.storage.postgres.schema.SchemaBusy": FAILED,
    "spotify_pipeline.storage.postgres.schema.SchemaOutdated": WRONG_USAGE,
    "spotify_pipeline.sync.admin.connect.ConnectFailed": FAILED,
    "spotify_pipeline.sync.pipeline.ClockIsWrong": WRONG_USAGE,
}


class WrongUsage(Exception):
    """The message is one sentence that says what to do instead."""


class WorkFailed(Exception):
    """The message is one sentence that says what failed and what to do."""


def report(error: BaseException) -> int:
    """Say on stderr what happened; return the exit code."""
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has left, as `| head` does. Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if isinstance(error, click.Abort):
        click.echo(err=True)  # it was asking something, on a line of its own
        if isinstance(error.__context__, EOFError):
            click.echo(f"Error: {NOBODY_ANSWERS}", err=True)
            return WRONG_USAGE
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
    from spotify_pipeline.cli.output import printable_lines

    return printable_lines(scrub(text))


def explain(error: BaseException) -> tuple[str, int]:
    """One sentence about an error, and the exit code; writes the log for an unexpected one."""
    for one in _chain(error):
        for known in type(one).__mro__:
            code = EXIT_CODES.get(f"{known.__module__}.{known.__qualname__}")
            if code is not None:
                return scrub(str(one)), code
        if type(one).__module__.startswith("sqlalchemy."):
            # Only now: whoever raised it has imported SQLAlchemy already.
            from spotify_pipeline.storage.postgres.errors import explain_database

            if sentence := explain_database(one):
                return scrub(sentence[0]), sentence[1]
    return scrub(f"Something unexpected failed: {type(error).__name__}. {_log(error)}"), FAILED


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
    from spotify_pipeline.cli.private_files import private_file
    from spotify_pipeline.home import private_folder
    from spotify_pipeline.settings import ConfigurationError, load_settings

    text = scrub("".join(traceback.format_exception(error)))
    try:
        path = private_folder(load_settings().home, "logs") / "last-error.log"
        path.unlink(missing_ok=True)  # a link that somebody put there is not followed
        with private_file(path) as file:
            file.write(f"{datetime.now(UTC).isoformat()}\n{text}".encode(errors="backslashreplace"))
    except (ConfigurationError, OSError, WrongUsage, WorkFailed):
        return "No log could be written: run `spotify-pipeline doctor`."
    return f"The details are in {path}."
