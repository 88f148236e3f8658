"""Reads single JSON fields strictly: a missing value or one of the wrong type is None.

Never "" or 0 instead, and never a guess: `True` and `"5"` are not numbers. Texts lose characters
that Postgres cannot store, and that is counted. Whole items are parsed in parsing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# Postgres stores neither NUL nor half a surrogate pair; JSON can carry both.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NOT_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LINK = re.compile(r"https?://[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,2000}")
_LEAP_SECOND = re.compile(r"(?<=:[0-9]{2}:)60|(?<=[T ][0-9]{4})60")
_MIDNIGHT_AS_24 = re.compile(r"(?<=[T ])24(?=(:?00){0,2}([.,]0+)?(Z|[+-]|$))")

# Pictures come in a few widths; 300 is sharp in a list or on a card.
_IMAGE_WIDTH = 300
_LONGEST_ID = 255
# Spotify was founded in April 2006: an earlier play comes from a clock that was never set.
_FIRST_YEAR = 2006


@dataclass
class Texts:
    """Cleans texts and counts in `cleaned` how many were changed."""

    cleaned: int = 0

    def read(self, value: object) -> str | None:
        """The text without NUL and lone surrogates; None for anything but text."""
        if not isinstance(value, str):
            return None
        clean = _UNSTORABLE.sub("", value)
        self.cleaned += clean != value
        return clean


def read_id(value: object) -> str | None:
    """An id as sent: 1 to 255 characters, none of them a control character."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID:
        return None
    return None if _NOT_IN_IDS.search(value) else value


def read_integer(value: object, low: int, high: int) -> int | None:
    """A whole JSON number from low to high."""
    return value if type(value) is int and low <= value <= high else None


def read_link(value: object) -> str | None:
    """An http or https URL. Apps put it into pages, so other schemes would be an injection."""
    return value if isinstance(value, str) and _LINK.fullmatch(value) else None


def read_objects(value: object) -> Iterator[Mapping[str, object]]:
    """The JSON objects of a list; empty for anything else."""
    return (
        entry for entry in (value if isinstance(value, list) else ()) if isinstance(entry, dict)
    )


def read_object(value: object) -> Mapping[str, object]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def read_image(value: object) -> str | None:
    """The URL of the picture whose width is nearest to 300 pixels; the first among equals.

    A picture without a width is taken only if none has one.
    """
    best: tuple[float, str] | None = None
    for image in read_objects(value):
        link, width = read_link(image.get("url")), read_integer(image.get("width"), 1, 100_000)
        distance = float("inf") if width is None else abs(width - _IMAGE_WIDTH)
        if link is not None and (best is None or distance < best[0]):
            best = (distance, link)
    return best[1] if best else None


def read_instant(value: object) -> datetime | None:
    """An ISO 8601 date and time as an aware UTC datetime, cut to the millisecond.

    Extended, basic and week form, any number of decimals, any offset; without an offset it is UTC,
    the only one Spotify documents. A leap second (23:59:60) is the last millisecond before it,
    because neither Python nor Postgres has a sixty-first second; 24:00 is the next midnight.
    None for anything else, and for a time before 2006, when Spotify began.
    """
    if not isinstance(value, str) or not re.search("[T ]", text := value.upper()):
        return None
    text, leap_seconds = _LEAP_SECOND.subn("59", text)
    text, midnights = _MIDNIGHT_AS_24.subn("00", text)
    try:
        moment = datetime.fromisoformat(text) + timedelta(days=midnights)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    millisecond = 999 if leap_seconds else moment.microsecond // 1000
    moment = moment.replace(microsecond=millisecond * 1000)
    return moment if moment.year >= _FIRST_YEAR else None
