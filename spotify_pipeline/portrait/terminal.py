"""Prints a user's portrait in the terminal, with rich; readable without colours too."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import click

from spotify_pipeline.domain.portrait import (
    LEVEL_WORDS,
    Day,
    Portrait,
    TopList,
    by_weeks,
    level,
    month_starts,
    movement,
)
from spotify_pipeline.portrait.meanings import meanings
from spotify_pipeline.terminal import count, instant, print_table

if TYPE_CHECKING:
    from rich.text import Text

# Glyph and colour of the levels 0 to 4, and of unknown days.
_LEVELS = (("·", "dim"), ("░", "blue"), ("▒", "blue"), ("▓", "bright_blue"), ("█", "bright_cyan"))
_UNKNOWN = ("?", "dim")
_BARS = "▁▂▃▄▅▆▇█"


def print_portrait(portrait: Portrait) -> None:
    """Calendar, hours, last days, top lists, personality, gaps."""
    _print_calendar(portrait.days)
    _print_hours(portrait.hours)
    print_table(
        ("date", "minutes", "plays", "completeness"),
        [
            (_weekday(day.date), _number(day.minutes), _number(day.plays), day.completeness)
            for day in portrait.days[-7:]
        ],
    )
    _print_top("top artists", portrait.artists)
    _print_top("top tracks", portrait.tracks)
    _print_personality(portrait)
    _print_gaps(portrait)


def _print_calendar(days: Sequence[Day]) -> None:
    from rich.console import Console
    from rich.text import Text

    console, weeks = Console(), by_weeks(days)
    months = [" "] * (2 * len(weeks) + 4)
    for column, first in month_starts(weeks).items():
        months[4 + 2 * column : 7 + 2 * column] = f"{first:%b}"
    console.print(Text("".join(months).rstrip()), soft_wrap=True)
    for row, name in enumerate(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")):
        line = Text(f"{name} ")
        for week in weeks:
            day = week[row]
            line.append_text(_cell(level(day.minutes)) if day else Text(" "))
            line.append(" ")
        line.rstrip()
        console.print(line, soft_wrap=True)
    key = Text("    minutes: ")
    for shade, words in enumerate(LEVEL_WORDS):
        key.append_text(_cell(shade)).append(f" {words}  ")
    console.print(key.append_text(_cell(None)).append(" not known"), soft_wrap=True)


def _cell(shade: int | None) -> "Text":
    from rich.text import Text

    glyph, colour = _UNKNOWN if shade is None else _LEVELS[shade]
    return Text(glyph, style=colour)


def _print_hours(hours: Sequence[int]) -> None:
    if not hours:
        click.echo("hours          no plays in the last 28 days")
        return
    most = max(hours)
    bars = "".join(_BARS[round(7 * minutes / most)] for minutes in hours)
    click.echo(f"hours          {bars}  of 28 days, most at {hours.index(most)}:00")
    click.echo("               0     6     12    18")


def _print_top(heading: str, top: TopList) -> None:
    if not top.items:
        click.echo(f"No {heading} yet.")
        return
    headings = ("rank", heading, "by", "in 4 weeks")
    rows = [
        (str(rank), item.name, item.artist_name or "", movement(top.moved(rank)))
        for rank, item in enumerate(top.items, 1)
    ]
    # Leaves out empty columns: artists have no "by", and new users have no older list.
    shown = [column for column, cells in enumerate(zip(*rows, strict=True)) if any(cells)]
    print_table(
        [headings[column] for column in shown],
        [[row[column] for column in shown] for row in rows],
    )


def _print_personality(portrait: Portrait) -> None:
    row = portrait.personality
    if row is None:
        click.echo("No personality yet: it is computed at the next sync.")
        return
    click.echo(
        f"Personality of {row['window_start']} to {row['window_end']} "
        f"({row['play_count']:,} plays): {', '.join(row['tags']) or 'no tags'}"
    )
    print_table(
        ("metric", "value", "what it means"),
        [
            (metric.metric, "–" if metric.value is None else metric.value, metric.sentence)
            for metric in meanings(row, portrait.names)
        ],
    )


def _print_gaps(portrait: Portrait) -> None:
    if portrait.gaps:
        click.echo(f"Plays may be missing in {count(len(portrait.gaps), 'gap')}; the latest:")
        for gap in portrait.gaps[:3]:
            click.echo(f"  {instant(gap.start)} to {instant(gap.end)}")


def _weekday(day: date) -> str:
    return f"{day:%a} {day.isoformat()}"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
