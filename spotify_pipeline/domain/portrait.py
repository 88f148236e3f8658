"""The read model of a user's listening, for the terminal, the page and the picture."""

from calendar import day_name
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from spotify_pipeline.domain.listening.coverage import Interval

# Half a year, in whole weeks.
WEEKS = 26
# Minutes from which each level of the calendar begins; level 0 is 0 minutes.
LEVELS_FROM = (1, 30, 60, 120)
LEVEL_WORDS = ("0", "1–29", "30–59", "60–119", "120+")
# A top list is compared with the one of four weeks ago.
COMPARED_AFTER = timedelta(days=28)
QUARTER_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Day:
    """A local day. None if unknown; 0 only if it is known that nothing was heard."""

    date: date
    minutes: int | None
    plays: int | None
    completeness: str
    # Why it is not complete, in words; None: it is, or the reason is not known.
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Weekday:
    """The mean minutes of a weekday. None: no such day is known.

    Of the days that are known completely; without any, of the others (`is_least`).
    """

    name: str
    minutes: int | None
    days: int
    is_least: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A value of a chart over time, as text and in words; None: not known, the words say why."""

    label: str
    value: float | None
    text: str
    words: str


@dataclass(frozen=True, slots=True)
class TopItem:
    """A line of a top list; `artist_name` is None for an artist."""

    spotify_id: str
    name: str
    artist_name: str | None = None


@dataclass(frozen=True, slots=True)
class TopList:
    """The list of the last four weeks, best first, and the ranks of the list four weeks ago."""

    items: tuple[TopItem, ...] = ()
    # None: no list of that time is known, so movement is unknown.
    ranks_before: Mapping[str, int] | None = None

    def moved(self, rank: int) -> int | str | None:
        """How many ranks the item at this rank (from 1) rose, or "new"; None: unknown."""
        if self.ranks_before is None:
            return None
        before = self.ranks_before.get(self.items[rank - 1].spotify_id)
        return "new" if before is None else before - rank


@dataclass(frozen=True, slots=True)
class Portrait:
    """A user's listening as it is shown; days oldest first, the last one is today."""

    days: tuple[Day, ...]
    # Minutes heard in each local hour, 0 to 23, over the last four weeks; empty: none.
    hours: tuple[int, ...]
    artists: TopList
    tracks: TopList
    # The columns of music_personality; None before it is first computed.
    personality: Mapping[str, Any] | None
    # Open gaps, latest first.
    gaps: tuple[Interval, ...]
    # Names of the artists that the personality references by id.
    names: Mapping[str, str] = field(default_factory=dict)


def level(minutes: int | None) -> int | None:
    """The day's level in the calendar, 0 to 4; None stays None."""
    return None if minutes is None else sum(minutes >= start for start in LEVELS_FROM)


def movement(moved: int | str | None) -> str:
    """`TopList.moved` as a sign and a number that need no colour; "" if unknown."""
    if moved is None or isinstance(moved, str):
        return moved or ""
    return f"▲ {moved}" if moved > 0 else f"▼ {-moved}" if moved else "="


def calendar_start(today: date) -> date:
    """The Monday on which the calendar begins."""
    return today - timedelta(days=today.weekday(), weeks=WEEKS - 1)


def by_weeks(days: Sequence[Day]) -> list[list[Day | None]]:
    """Columns of a calendar, Monday first; None for a day outside of `days`."""
    padded = [None] * days[0].date.weekday() + list(days)
    padded += [None] * (-len(padded) % 7)
    return [padded[start : start + 7] for start in range(0, len(padded), 7)]


def month_starts(weeks: Sequence[Sequence[Day | None]]) -> dict[int, date]:
    """The columns in which a new month begins, with a date of it; never two adjacent ones."""
    firsts = [next(day.date for day in week if day) for week in weeks]
    starts = [0] + [
        column
        for column, (previous, first) in enumerate(pairwise(firsts), 1)
        if previous.month != first.month
    ]
    return {
        column: firsts[column]
        for column, after in pairwise([*starts, len(weeks) + 2])
        if after - column > 1
    }


def by_weekday(days: Sequence[Day]) -> list[Weekday]:
    """Mean minutes of Monday to Sunday; the last day is left out, because it is not over."""
    rows = []
    for number, name in enumerate(day_name):
        known = [
            (day.minutes, day.completeness == "complete")
            for day in days[:-1]
            if day.date.weekday() == number and day.minutes is not None
        ]
        is_least = not any(complete for _, complete in known)
        heard = [minutes for minutes, complete in known if complete or is_least]
        mean = round(sum(heard) / len(heard)) if heard else None
        rows.append(Weekday(name, mean, len(heard), is_least and bool(heard)))
    return rows


def minutes_by_hour(quarters: Iterable[tuple[int, int]], zone: ZoneInfo) -> tuple[int, ...]:
    """Whole minutes per local hour from (quarter of an hour since 1970, milliseconds heard).

    All current zones differ from UTC by whole quarters of an hour.
    """
    heard = [0] * 24
    for quarter, milliseconds in quarters:
        heard[datetime.fromtimestamp(quarter * QUARTER_SECONDS, zone).hour] += milliseconds
    return tuple((ms + 30_000) // 60_000 for ms in heard) if any(heard) else ()
