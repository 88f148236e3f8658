"""Output of commands: results to stdout, progress to stderr, names without control characters."""

import contextlib
import io
import json
import os
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import chain, islice
from typing import IO, Any, TypeVar

import click

# Between two lines of progress where there is no terminal.
LINE_SECONDS = 5.0
# Between two columns of a table.
GUTTER = "   "
# Rows of a table, or items of a list, that are printed at once.
BATCH = 1000
# Control characters, separators of lines, overrides of the writing direction (they could make one
# name look like another), surrogates, and noncharacters (U+FFFE makes XML not well-formed).
_UNSHOWN = re.compile(
    "[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
# Letters and symbols that look like spaces, and code points that fonts ignore.
_BLANK = re.compile("[\u115f\u1160\u2065\u2800\u3164\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]")

Advance = Callable[[int], None]
Item = TypeVar("Item")


def example(*commands: str) -> str:
    """The epilog of a command's --help."""
    title = "Example:" if len(commands) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {command}" for command in commands)])


def printable(text: str | None) -> str:
    """Text from outside for a terminal: what would move its cursor or hide letters becomes U+FFFD.

    None is an empty text.
    """
    if text and text.isprintable():  # nearly every text, and 20 times as fast
        return text
    return _UNSHOWN.sub("\ufffd", text or "")


def printable_lines(text: str) -> str:
    """As `printable`, but keeps line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def is_visible(text: str) -> bool:
    """Whether a reader sees anything of a text: more than spaces, formatting and accents."""
    return any(
        unicodedata.category(character) != "Cf" and unicodedata.category(character)[0] not in "ZM"
        for character in _BLANK.sub("", printable(text))
    )


def instant(value: datetime | None) -> str:
    """To the second, in UTC; a dash for none."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if value else "–"


def count(number: int, noun: str) -> str:
    """`1 user`, `2,000 users`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def print_json(value: Any) -> None:
    """Indented JSON; instants are ISO 8601 in UTC with Z, dates ISO 8601.

    What `printable` hides is escaped, so that a terminal shows it and a program reads it unchanged.
    """
    click.echo(_json(value))


def print_json_list(items: Iterable[Any]) -> None:
    """As `print_json` of a list, without having all items in memory."""
    before = "["
    for batch in _batches(items):
        click.echo(before + _json(batch).removeprefix("[").removesuffix("\n]"), nl=False)
        before = ","
    click.echo("[]" if before == "[" else "\n]")


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_plain)
    return _UNSHOWN.sub(lambda found: found[0] if found[0] == "\n" else _escaped(found[0]), text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return re.sub("(....)", r"\\u\1", units)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of up to BATCH items: each line printed on its own would be flushed on its own."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON here")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """A table on stdout; cells are printed as they are, without markup. Returns how many rows.

    Columns are as wide as the first BATCH rows need; a wider cell of a later row moves the rest of
    its line. In a file or pipe each row is one line, whatever its length. On a terminal the last
    column is folded between words; where that does not help, each row becomes a block of lines.
    """
    from rich.cells import cell_len  # letters that are two columns wide, or none

    batches = _batches([printable(cell) for cell in row] for row in rows)
    first = next(batches, [])
    widths = [max(map(cell_len, column)) for column in zip(headings, *first, strict=True)]
    as_blocks = False
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        widths[-1] = min(widths[-1], room - sum(widths[:-1]) - len(GUTTER) * (len(widths) - 1))
        words = [word for row in (headings, *first) for word in row[-1].split()]
        as_blocks = widths[-1] < max(map(cell_len, words), default=1)
    if not as_blocks:
        for heading in _folded(headings, widths):
            click.echo(click.style(heading, bold=True))
        click.echo("─" * (sum(widths) + len(GUTTER) * (len(widths) - 1)))
    printed = 0
    for batch in chain([first] if first else [], batches):
        if as_blocks:
            _print_blocks(headings, batch)
        else:
            click.echo("\n".join(line for row in batch for line in _folded(row, widths)))
        printed += len(batch)
    return printed


def _folded(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The lines of a row; only the last cell may need more than one."""
    from rich.cells import cell_len

    *first, last = row
    start = "".join(
        cell + " " * (width - cell_len(cell)) + GUTTER
        for cell, width in zip(first, widths, strict=False)
    )
    parts = [last] if cell_len(last) <= widths[-1] else textwrap.wrap(last, widths[-1])
    for part in parts:
        yield (start + part).rstrip()
        start = " " * cell_len(start)


def _print_blocks(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widest = max(map(len, headings))
    for row in rows:
        for heading, cell in zip(headings, row, strict=True):
            click.echo(f"{click.style(heading.ljust(widest), bold=True)}{GUTTER}{cell}")
        click.echo()


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Yields a function that reports how many of `total` are done.

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
