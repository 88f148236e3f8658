"""Time zones with the rules of the pinned `tzdata` package, never the machine's own.

`zoneinfo` looks in /usr/share/zoneinfo first, where two machines may disagree about the day a play
belongs to. So the files are read from the package, whatever PYTHONTZPATH says.
"""

import difflib
import re
from functools import cache
from importlib import resources
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
