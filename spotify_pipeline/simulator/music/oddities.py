"""Options for the oddities of Spotify's feed: re-stamped, vanishing, relinked plays and more.

Only the options and their JSON; `feed` applies them. Shares lie between 0 and 1, and the same seed
always picks the same plays and tracks.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from spotify_pipeline.simulator.http.responses import Json, timestamp
from spotify_pipeline.simulator.music.listeners import from_ms, to_ms

Change = Literal["length", "name", "primary_artist", "other_artists", "popularity", "emptied"]
CHANGES: tuple[Change, ...] = get_args(Change)
_EXAMPLES_START = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class _Event:
    """An event at an instant, repeated every `every` after it."""

    at: dt.datetime
    every: dt.timedelta | None = None

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("an instant needs an offset, such as Z")
        if self.every is not None and self.every <= dt.timedelta(0):
            raise ValueError("every must be longer than nothing")

    def occurrences(self, now_ms: int) -> int:
        """How often it has happened by `now_ms`."""
        passed = now_ms - to_ms(self.at)
        if passed < 0:
            return 0
        return 1 if self.every is None else 1 + passed // _ms(self.every)

    def instants(self, since_ms: int, now_ms: int) -> Iterator[int]:
        """The times of the event in (since, now], in Unix ms."""
        at_ms = to_ms(self.at)
        for number in range(self.occurrences(since_ms), self.occurrences(now_ms)):
            yield at_ms + number * (_ms(self.every) if self.every else 0)


@dataclass(frozen=True, slots=True)
class Restamp(_Event):
    """From an instant on, plays that ended before it are served with another `played_at`.

    It hits the plays of the 7 days before the instant, or only the last `last` of them. 38 of 39
    move 0.8 to 31 s back, the others up to 56 s ahead.
    """

    last: int | None = None

    def __post_init__(self) -> None:
        _Event.__post_init__(self)
        if self.last is not None and self.last < 1:
            raise ValueError("last must be 1 or more")


@dataclass(frozen=True, slots=True)
class TrackChange(_Event):
    """From an instant on, a share of the tracks, or one track, is served with other values.

    `emptied` serves `name: ""` and `duration_ms: 0`. The same change hits the same tracks for all
    listeners of a simulator.
    """

    fields: tuple[Change, ...] = ("length", "name", "other_artists", "popularity")
    share: float = 1.0
    track_id: str | None = None

    def __post_init__(self) -> None:
        _Event.__post_init__(self)
        _check_share("share", self.share)
        if wrong := set(self.fields) - set(CHANGES):
            raise ValueError(f"{', '.join(sorted(wrong))} is none of {', '.join(CHANGES)}")


@dataclass(frozen=True, slots=True)
class Oddities:
    """How a listener's feed departs from an ideal one. By default only the 7-day window is on.

    seven_days: only plays of the last 7 days are served.
    restamps, changes: see `Restamp` and `TrackChange`.
    vanishing: share of the plays that leave the feed 2 to 48 hours after they appeared.
    same_instant: share (at most 0.5) of the plays served at the `played_at` of the play before
        them, another song; the order of the two differs from call to call. Two neighbours are
        never both moved.
    relinked: share of the plays that are served under a second track id of the same recording:
        from hour to hour under the first id, under the second, or under both at once.
    offline: share of the 90-minute stretches without a connection: their plays arrive together
        up to half an hour later, stamped within seconds of each other.
    late_uploads: share of the offline stretches that arrive later instead, 5 hours in the median
        and 6 days at most; each of their plays is listed at its start.
    pages_of_49: share of the hours in which a full window lacks one of its 50 plays.
    skipped_missing: share of the plays ended with Next after 30 s that the feed never lists.
    short_tracks: share of the tracks that last 8 to 29 seconds; plays of them are listed.
    """

    seven_days: bool = True
    restamps: tuple[Restamp, ...] = ()
    changes: tuple[TrackChange, ...] = ()
    vanishing: float = 0.0
    same_instant: float = 0.0
    relinked: float = 0.0
    offline: float = 0.0
    late_uploads: float = 0.0
    pages_of_49: float = 0.0
    skipped_missing: float = 0.0
    short_tracks: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)):
                _check_share(field.name, value)
        if self.same_instant > 0.5:
            raise ValueError("same_instant must be at most 0.5")

    @classmethod
    def everything(cls, start: dt.datetime = _EXAMPLES_START) -> Self:
        """Every oddity at once, often enough that a heavy listener meets all within two weeks.

        From `start` on, plays are re-stamped every 8 days (so no play twice), tracks change every 5
        days, and from 3 days after it some tracks are empty.
        """
        return cls(
            restamps=(Restamp(start, dt.timedelta(days=8)),),
            changes=(
                TrackChange(start, dt.timedelta(days=5), CHANGES[:-1], share=0.1),
                TrackChange(start + dt.timedelta(days=3), None, ("emptied",), share=0.02),
            ),
            vanishing=0.02,
            same_instant=0.03,
            relinked=0.1,
            offline=0.1,
            pages_of_49=0.2,
            skipped_missing=0.3,
            short_tracks=0.03,
        )

    def to_json(self) -> Json:
        """The JSON that `from_json` reads: instants as text, durations in seconds."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Parses the JSON of `to_json`; options may be missing. Raises TypeError or ValueError."""
        read = dict(body)
        read["restamps"] = tuple(Restamp(**_event(event)) for event in body.get("restamps", ()))
        read["changes"] = tuple(TrackChange(**_event(event)) for event in body.get("changes", ()))
        return cls(**read)


def _ms(duration: dt.timedelta) -> int:
    return duration // dt.timedelta(milliseconds=1)


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must be between 0 and 1")


def _plain(value: Any) -> Any:
    if isinstance(value, _Event):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dt.datetime):
        return timestamp(value)
    return value.total_seconds() if isinstance(value, dt.timedelta) else value


def _event(body: Json) -> Json:
    read = dict(body)
    # To the millisecond, like all instants of a simulator.
    read["at"] = from_ms(to_ms(dt.datetime.fromisoformat(body["at"])))
    if body.get("every") is not None:
        read["every"] = dt.timedelta(seconds=body["every"])
    if "fields" in body:
        read["fields"] = tuple(body["fields"])
    return read
