"""Time zones with the rules of the pinned `tzdata` package, never the machine's own.

`zoneinfo` looks in /usr/share/zoneinfo first, where two machines may disagree about the day a play
belongs to. So the files are read from the package, whatever PYTHONTZPATH says.

`all_day_starts` gives SQL the UTC offsets at which local days begin, a few dozen rows per zone: a
zone's days begin at the same UTC time until its clocks change, so one row per change gives the
start of every date of four decades.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from importlib import resources
from itertools import pairwise
from zoneinfo import ZoneInfo

from spotify_pipeline.errors import UsageError

_OFFSET = re.compile(r"(?:utc|gmt)?([+-])0?([0-9]{1,2})(?::?00)?")


class UnknownZone(UsageError, ValueError):
    """The name is not a time zone. The message is one sentence, if possible with a suggestion."""


@cache
def all_zones() -> tuple[str, ...]:
    """Every valid zone name, sorted: `zoneinfo.available_timezones()` of the tzdata package."""
    listed = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8")
    return tuple(sorted(set(listed.split())))


def is_valid_zone(name: str) -> bool:
    """True for an exact zone name such as `Europe/Berlin`; upper and lower case matter."""
    return name in _names()


def check_zone(name: str) -> ZoneInfo:
    """The zone with the rules of the tzdata package. Raises UnknownZone with a suggestion."""
    if not is_valid_zone(name):
        suggestion = suggest_zone(name)
        shown = name if len(name) <= 60 else name[:60] + "…"
        hint = f"did you mean {suggestion}?" if suggestion else "a name looks like Europe/Berlin."
        raise UnknownZone(f"{shown!r} is not a time zone: {hint}")
    return _load(name)


def suggest_zone(name: str) -> str | None:
    """The valid zone whose name is closest, or None.

    Compares without case and with spaces as underscores, first with whole names, then with their
    last parts (`Berlin`), then by likeness. `UTC+2` gives `Etc/GMT-2`: the names of the fixed
    offsets have their sign reversed (POSIX), and `Etc/GMT+2` would be four hours off.
    """
    wanted = re.sub(r"\s+", "_", name.strip()[:100].lower())
    if offset := _OFFSET.fullmatch(wanted):
        sign = "-" if offset[1] == "+" else "+"
        fixed = f"Etc/GMT{sign}{offset[2]}"
        return fixed if is_valid_zone(fixed) else None
    candidates = _by_lower_name()
    close = difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.75) if wanted else []
    if wanted in candidates:
        return candidates[wanted]
    return candidates[close[0]] if close else None


@cache
def _names() -> frozenset[str]:
    return frozenset(all_zones())


@cache
def _by_lower_name() -> dict[str, str]:
    """Whole names and last parts in lower case; whole names win, then the shortest zone name."""
    candidates: dict[str, str] = {}
    for zone in all_zones():
        candidates[zone.lower()] = zone
    for zone in sorted(all_zones(), key=lambda zone: (len(zone), zone)):
        candidates.setdefault(zone.rsplit("/", 1)[-1].lower(), zone)
    return candidates


@cache
def _load(name: str) -> ZoneInfo:
    path = resources.files("tzdata.zoneinfo").joinpath(*name.split("/"))
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


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
