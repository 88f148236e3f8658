"""What commands write: results to stdout, progress to stderr, names without control characters."""

import contextlib
import io
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import IO, Any

import click

# Between two lines of progress where there is no terminal.
LINE_SECONDS = 5.0
# A table in a file or pipe is not cut to the width of a terminal that is not there.
PIPE_WIDTH = 1000
# Overrides of the writing direction: they could make one name look like another.
_DIRECTION = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}

Advance = Callable[[int], None]


def example(*commands: str) -> str:
    """The epilog of a command's --help."""
    title = "Example:" if len(commands) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {command}" for command in commands)])


def printable(text: str | None) -> str:
    """Text from outside for a terminal: what would move its cursor or hide letters becomes U+FFFD.

    None is an empty text.
    """
    return "".join(
        "\ufffd"
        if character in _DIRECTION or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        else character
        for character in text or ""
    )


def instant(value: datetime | None) -> str:
    """To the second, in UTC; a dash for none."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if value else "–"


def count(number: int, noun: str) -> str:
    """`1 user`, `2,000 users`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def print_json(value: Any) -> None:
    """Indented JSON; instants are ISO 8601 in UTC with Z, dates ISO 8601."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON here")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; cells are printed as they are, without markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    view = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        view.add_column(heading, overflow="fold")
    for row in rows:
        view.add_row(*(Text(printable(cell)) for cell in row))
    console.print(view)


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Yields a function to tell how many of `total` are done.

    A bar on a terminal; otherwise a line at the start and at most one every 5 seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with _own_stderr() as file:
        console = Console(file=file)
        if not console.is_terminal:
            yield _lines(file, what, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(
            *columns, console=console, redirect_stdout=False, redirect_stderr=False
        ) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)


def _lines(file: IO[str], what: str, total: int) -> Advance:
    print(f"{what}: {total:,} to do", file=file, flush=True)
    said = (time.monotonic(), 0)

    def advance(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done != said[1] and (now - said[0] >= LINE_SECONDS):
            print(f"{what}: {done:,} of {total:,}", file=file, flush=True)
            said = (now, done)

    return advance


@contextmanager
def _own_stderr() -> Iterator[IO[str]]:
    """A copy of stderr: Dagster redirects file descriptor 2 into its log while a step runs."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, io.UnsupportedOperation):
        yield sys.stderr
        return
    with os.fdopen(
        descriptor, "w", encoding=sys.stderr.encoding, errors="backslashreplace"
    ) as file:
        yield file
        with contextlib.suppress(OSError):
            file.flush()
