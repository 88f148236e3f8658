"""Synthetic listeners: their plays are a pure function of seed, kind of listener and time.

A listening day runs from the hour in which the listener sleeps to the same hour of the next local
date, also on 23- and 25-hour days. No session crosses it, so each day can be computed on its own
and plays never overlap.
"""

import datetime as dt
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import exp, log
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo

from spotify_pipeline.simulator.music.catalogue import Catalogue
from spotify_pipeline.simulator.music.listener_kinds import LISTENER_KINDS, ListenerKind
from spotify_pipeline.simulator.music.seeds import seeded, spotify_id
from spotify_pipeline.simulator.music.taste import Taste

SESSION_PAUSE_MS = 20 * 60_000
# Spotify counts a play after about 30 seconds; it lists shorter ones only if the track itself is
# shorter (see `Oddities.short_tracks`).
SHORTEST_PLAY_MS = 31_000
_DAYS_KEPT = 40
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Play(NamedTuple):
    """One play: start and end in Unix ms, the track's number, and its context."""

    end_ms: int
    start_ms: int
    track: int
    context: str | None


def to_ms(moment: dt.datetime) -> int:
    """Unix milliseconds of an aware datetime."""
    return (moment - _EPOCH) // dt.timedelta(milliseconds=1)


def from_ms(ms: int) -> dt.datetime:
    """An aware UTC datetime of Unix milliseconds."""
    return _EPOCH + dt.timedelta(milliseconds=ms)


class Listener:
    """One listener's plays, computed on demand; recently used days are cached."""

    def __init__(
        self,
        catalogue: Catalogue,
        seed: int,
        user_id: str,
        timezone: str,
        kind: ListenerKind,
        since: dt.date | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.seed = seed
        self.user_id = user_id
        self.timezone = timezone
        self.kind = kind
        self.since = since
        self._zone = ZoneInfo(timezone)
        self._taste = Taste(catalogue, seed, user_id, kind)
        self._days: OrderedDict[int, tuple[Play, ...]] = OrderedDict()
        self._tracks: dict[int, array[int]] = {}

    def plays(self, from_ms_: int, to_ms_: int) -> list[Play]:
        """The plays whose end lies in (from, to], oldest first."""
        first, last = self._ordinal(from_ms_) - 1, self._ordinal(to_ms_) + 1
        return [
            play
            for ordinal in range(first, last + 1)
            for play in self.day(ordinal)
            if from_ms_ < play.end_ms <= to_ms_
        ]

    def tracks_of_day(self, ordinal: int) -> "array[int]":
        """The track numbers played on a listening day, for top lists."""
        if ordinal not in self._tracks:
            self._tracks[ordinal] = array("I", (play.track for play in self._make_day(ordinal)))
        return self._tracks[ordinal]

    def day(self, ordinal: int) -> tuple[Play, ...]:
        """The plays of the listening day that starts on a local date (proleptic ordinal)."""
        if ordinal in self._days:
            self._days.move_to_end(ordinal)
            return self._days[ordinal]
        plays = tuple(self._make_day(ordinal))
        self._days[ordinal] = plays
        if len(self._days) > _DAYS_KEPT:
            self._days.popitem(last=False)
        return plays

    def delay_ms(self, play: Play, longest_ms: int) -> int:
        """Delay between the end of a play and its appearance in the feed; fixed per play."""
        if not longest_ms:
            return 0
        text = f"{self.seed}/{self.user_id}/{play.end_ms}"
        share = int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") / 2**32
        return int(longest_ms * share**12)

    def _ordinal(self, ms: int) -> int:
        return from_ms(ms).astimezone(self._zone).toordinal()

    def _day_start_ms(self, ordinal: int) -> int:
        date = dt.date.fromordinal(ordinal)
        hour = dt.time(self.kind.day_starts)
        return to_ms(dt.datetime.combine(date, hour, tzinfo=self._zone).astimezone(dt.UTC))

    def _rng(self, *parts: object) -> Random:
        return seeded(self.seed, self.user_id, *parts)

    def _make_day(self, ordinal: int) -> Iterator[Play]:
        date = dt.date.fromordinal(ordinal)
        if self.since is not None and date < self.since:
            return
        kind, rng = self.kind, self._rng("day", ordinal)
        silent = self._rng("week", ordinal // 7).random() < kind.silent_week
        if silent or rng.random() < kind.quiet_day:
            return
        level = kind.weekdays[date.weekday()] * rng.lognormvariate(0, kind.day_sigma)
        sessions = _poisson(rng, kind.sessions * level)
        day_start, day_end = self._day_start_ms(ordinal), self._day_start_ms(ordinal + 1)
        hours = [(hour - kind.day_starts) % 24 for hour in range(24)]
        picked = rng.choices(hours, kind.hours, k=sessions)
        starts = sorted(day_start + int((hour + rng.random()) * 3_600_000) for hour in picked)
        free_from = day_start + SESSION_PAUSE_MS
        month = self._taste.artists_of_the_month(ordinal // 28)
        for start in starts:
            length = round(rng.lognormvariate(log(kind.session_median), kind.session_sigma))
            begin = max(start, free_from + int(rng.expovariate(1 / 900_000)))
            for play in self._session(rng, begin, min(max(length, 1), 104), month, ordinal):
                if play.end_ms + SESSION_PAUSE_MS > day_end:
                    return
                yield play
                free_from = play.end_ms + SESSION_PAUSE_MS + 1

    def _session(
        self, rng: Random, begin: int, length: int, month: Sequence[int], ordinal: int
    ) -> Iterator[Play]:
        tracks = self._taste.choices(rng, month, ordinal)
        context = self._context(rng)
        clock = begin
        for _ in range(length):
            track, album = next(tracks)
            heard = self.catalogue.duration_ms(track)
            if rng.random() < self.kind.skip:
                heard = max(SHORTEST_PLAY_MS, int(heard * rng.random()))
            end = clock + heard
            yield Play(end, clock, track, album or context)
            pause = 150 if rng.random() < 0.9 else rng.expovariate(1 / 60_000)
            clock = end + 1 + int(min(pause, SESSION_PAUSE_MS / 2))

    def _context(self, rng: Random) -> str | None:
        dice = rng.random()
        if dice < 0.25:
            return None
        if dice < 0.35:
            return f"spotify:user:{self.user_id}:collection"
        return f"spotify:playlist:{spotify_id(self.seed, 'playlist', int(rng.random() ** 2 * 30))}"


def make_listener(
    catalogue: Catalogue,
    seed: int,
    user_id: str,
    timezone: str,
    kind: str = "heavy",
    since: dt.date | None = None,
) -> Listener:
    """A listener of a kind (a key of LISTENER_KINDS) whose first play is not before the local date
    `since`. Raises KeyError for an unknown kind and ZoneInfoNotFoundError for an unknown zone."""
    return Listener(catalogue, seed, user_id, timezone, LISTENER_KINDS[kind], since)


def _poisson(rng: Random, mean: float) -> int:
    """A Poisson-distributed number (Knuth's algorithm; means here are below 30)."""
    limit, product, count = exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count
