"""Options for the oddities of Spotify's feed: re-stamped, vanishing, relinked plays and more.

Only the options; `feed` applies them. Shares lie between 0 and 1, and the same seed always picks
the same plays and tracks. Wrong options raise pydantic's ValidationError, a ValueError.
"""

import datetime as dt
from collections.abc import Iterator
from typing import Annotated, Literal, Self, get_args

from pydantic import AwareDatetime, Field, PositiveInt
from pydantic.dataclasses import dataclass

from spotify_pipeline.simulator.music.listeners import to_ms

Change = Literal["length", "name", "primary_artist", "other_artists", "popularity", "emptied"]
CHANGES: tuple[Change, ...] = get_args(Change)
_Share = Annotated[float, Field(ge=0, le=1)]
_EXAMPLES_START = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True, config={"extra": "forbid"})
class _Event:
    """An event at an instant, repeated every `every` after it."""

    at: AwareDatetime
    every: Annotated[dt.timedelta, Field(gt=dt.timedelta(0))] | None = None

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


@dataclass(frozen=True, slots=True, config={"extra": "forbid"})
class Restamp(_Event):
    """From an instant on, plays that ended before it are served with another `played_at`.

    It hits the plays of the 7 days before the instant, or only the last `last` of them. 38 of 39
    move 0.8 to 31 s back, the others up to 56 s ahead.
    """

    last: PositiveInt | None = None


@dataclass(frozen=True, slots=True, config={"extra": "forbid"})
class TrackChange(_Event):
    """From an instant on, a share of the tracks, or one track, is served with other values.

    `emptied` serves `name: ""` and `duration_ms: 0`. The same change hits the same tracks for all
    listeners of a simulator.
    """

    fields: tuple[Change, ...] = ("length", "name", "other_artists", "popularity")
    share: _Share = 1.0
    track_id: str | None = None


@dataclass(frozen=True, slots=True, config={"extra": "forbid"})
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
    vanishing: _Share = 0.0
    same_instant: Annotated[_Share, Field(le=0.5)] = 0.0
    relinked: _Share = 0.0
    offline: _Share = 0.0
    late_uploads: _Share = 0.0
    pages_of_49: _Share = 0.0
    skipped_missing: _Share = 0.0
    short_tracks: _Share = 0.0

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


def _ms(duration: dt.timedelta) -> int:
    return duration // dt.timedelta(milliseconds=1)
