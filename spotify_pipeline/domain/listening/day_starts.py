"""The UTC offsets at which local days begin: a few dozen rows per zone, for use in SQL.

A zone's days begin at the same UTC time until its clocks change. So one row per change gives the
start of every date of four decades, by the rules of the pinned tzdata package.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from spotify_pipeline.domain.zones import all_zones, check_zone

# An imported history begins with Spotify's first year, 2008, and the app may look back 10,000 days.
# After the last date the last offset stays: by then a later tzdata
# has been installed, or the rules are outdated anyway.
FIRST, LAST = date(1999, 1, 1), date(2036, 1, 1)

# Local midnights, a week apart: the shortest clock change of any zone is Gaza's of one week in
# October 2040.
_WEEKLY = [
    datetime.combine(FIRST, time()) + timedelta(weeks=number)
    for number in range((LAST - FIRST).days // 7 + 1)
]


@dataclass(frozen=True, slots=True)
class DayStart:
    """From the date `since` on, a day of this zone begins at midnight UTC of its date + `begins`.

    East of Greenwich `begins` is negative. If midnight is skipped, the day begins with the skip.
    """

    timezone: str
    since: date
    begins: timedelta


@cache
def all_day_starts() -> tuple[DayStart, ...]:
    """The rows of every zone, by zone and date; the first of each is at FIRST."""
    return tuple(step for name in all_zones() for step in _steps(name, check_zone(name)))


def _steps(name: str, zone: ZoneInfo) -> Iterator[DayStart]:
    # `map` because there are 600,000 calls: 0.1 s.
    offsets = map(zone.utcoffset, _WEEKLY)
    yield DayStart(name, FIRST, _begins(_WEEKLY[0], zone))
    for (midnight, before), (_, after) in pairwise(zip(_WEEKLY, offsets, strict=True)):
        if before != after:
            day = midnight
            while zone.utcoffset(day) == before:
                day += timedelta(days=1)
            yield DayStart(name, day.date(), _begins(day, zone))


def _begins(midnight: datetime, zone: ZoneInfo) -> timedelta:
    offset = zone.utcoffset(midnight)
    assert offset is not None  # every zone of the package has an offset at all times
    return -offset
