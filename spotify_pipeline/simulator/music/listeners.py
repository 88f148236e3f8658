"""Synthetic listeners: kinds, taste, and plays as a pure function of seed, kind and time.

A listening day runs from the hour in which the listener sleeps to the same hour of the next local
date, also on 23- and 25-hour days. No session crosses it, so each day can be computed on its own
and plays never overlap.
"""

import datetime as dt
from array import array
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from hashlib import blake2b
from itertools import accumulate
from math import exp, log
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo

from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST, Catalogue, Release
from spotify_pipeline.simulator.music.seeds import GENRES, invented_word, seeded, spotify_id

SESSION_PAUSE_MS = 20 * 60_000
# Spotify counts a play after about 30 seconds; it lists shorter ones only if the track itself is
# shorter (see `Oddities.short_tracks`).
SHORTEST_PLAY_MS = 31_000
_DAYS_KEPT = 40
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# Weight of a session's start per local hour, from midnight.
_FLAT = (6, 5, 4, 3, 2, 5, 6, 7, 9, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 10, 10, 9, 8)
_EVENING = (3, 1, 0, 0, 0, 0, 1, 3, 4, 3, 3, 3, 4, 3, 3, 4, 6, 8, 10, 12, 14, 14, 11, 7)
_COMMUTE = (0, 0, 0, 0, 0, 1, 8, 16, 12, 3, 2, 2, 3, 2, 2, 3, 8, 15, 12, 5, 4, 3, 1, 0)
_NIGHT = (16, 15, 12, 9, 5, 2, 1, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 7, 9, 12, 14)


@dataclass(frozen=True, slots=True)
class ListenerKind:
    """How a listener listens. Shares are of plays, sessions are per day that is not quiet."""

    name: str
    sessions: float
    session_median: float
    session_sigma: float = 1.13
    hours: tuple[int, ...] = _FLAT
    weekdays: tuple[float, ...] = (1.0, 1.05, 1.0, 1.1, 1.15, 0.95, 0.8)  # Monday first
    day_sigma: float = 0.2
    quiet_day: float = 0.01
    silent_week: float = 0.0
    day_starts: int = 5  # the local hour in which this listener sleeps
    zipf: float = 1.06  # Zipf exponent of the artists' long tail: steeper is more loyal
    artists: int = 5000
    album_run: float = 0.013
    same_artist: float = 0.1
    repeat: float = 0.016
    phase: float = 0.08  # share of plays by the artists of the month
    skip: float = 0.22


HEAVY = ListenerKind("heavy", sessions=5.7, session_median=6.3)
LISTENER_KINDS: dict[str, ListenerKind] = {
    kind.name: kind
    for kind in (
        HEAVY,
        ListenerKind(
            "night_owl", 4.0, 7.0, hours=_NIGHT, day_starts=12, weekdays=(1, 1, 1, 1, 1.2, 1.3, 1)
        ),
        ListenerKind(
            "commuter", 2.6, 7.0, 0.6, _COMMUTE, (1.2, 1.2, 1.2, 1.2, 1.1, 0.4, 0.3), quiet_day=0.08
        ),
        replace(
            HEAVY, name="loyalist", sessions=4.0, hours=_EVENING, zipf=1.45, phase=0.02, repeat=0.09
        ),
        ListenerKind(
            "explorer", 4.0, 6.0, hours=_EVENING, zipf=0.8, artists=8000, phase=0.25, repeat=0.005
        ),
        ListenerKind("light", 1.2, 4.0, 0.9, _EVENING, quiet_day=0.35, silent_week=0.4),
    )
}

# (user_id, display name, IANA zone, kind): the first listeners of every simulator.
_NAMED = (
    ("mira", "Mira Solberg", "Europe/Oslo", "heavy"),
    ("kenji", "Kenji A.", "Asia/Tokyo", "night_owl"),
    ("ayo", "Ayọ̀", "Africa/Lagos", "commuter"),
    ("lucia", "Lucía Ferrán", "America/Argentina/Buenos_Aires", "explorer"),
    ("noor", "Noor", "Asia/Kolkata", "loyalist"),
    ("walt", "walt 🎧", "America/New_York", "light"),
)
_ZONES = (
    "Europe/Berlin",
    "Europe/London",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "America/St_Johns",
    "Africa/Cairo",
    "Asia/Shanghai",
    "UTC",
)


@dataclass(frozen=True, slots=True)
class NewListener:
    """A listener to create: identity, time zone and kind."""

    user_id: str
    display_name: str
    timezone: str
    kind: str  # a key of LISTENER_KINDS


def first_listeners(count: int, seed: int) -> Iterator[NewListener]:
    """The first `count` listeners of a simulator: named ones, then invented ones."""
    for named in _NAMED[:count]:
        yield NewListener(*named)
    kinds = tuple(LISTENER_KINDS)
    for number in range(len(_NAMED) + 1, count + 1):
        rng = seeded(seed, "cast", number)
        yield NewListener(
            f"listener-{number:05d}",
            f"{invented_word(rng)} {invented_word(rng)}",
            rng.choice(_ZONES),
            kinds[number % len(kinds)],
        )


@cache
def _long_tail(exponent: float, size: int) -> Sequence[float]:
    """Cumulative Zipf weights of the ranks 0 to size - 1, ending in 1."""
    weights = list(accumulate((rank + 1.8) ** -exponent for rank in range(size)))
    return [weight / weights[-1] for weight in weights]


class Taste:
    """A listener's ranking of artists, and the choice of the next track."""

    def __init__(self, catalogue: Catalogue, seed: int, user_id: str, kind: ListenerKind) -> None:
        self.catalogue = catalogue
        self.seed = seed
        self.user_id = user_id
        self.kind = kind

    def choices(
        self, rng: Random, month: Sequence[int], ordinal: int
    ) -> Iterator[tuple[int, str | None]]:
        """Endless choices of the next track, with the album as context if it is played through."""
        kind = self.kind
        track: int | None = None
        while True:
            dice = rng.random()
            if track is not None and dice < kind.repeat:
                yield track, None
                continue
            dice -= kind.repeat
            if track is not None and dice < kind.same_artist:
                artist = track // TRACKS_PER_ARTIST
            else:
                artist = self._artist(rng, month)
            track = self._track(rng, artist, ordinal)
            if rng.random() < kind.album_run:
                for following in self._album(rng, track):
                    track = following
                    yield track, self._album_context(track)
            else:
                yield track, None

    def _artist(self, rng: Random, month: Sequence[int]) -> int:
        if rng.random() < self.kind.phase:
            return month[int(len(month) * rng.random() ** 2)]
        tail = _long_tail(self.kind.zipf, self.kind.artists)
        return self._artists[min(bisect(tail, rng.random()), len(self._artists) - 1)]

    def _track(self, rng: Random, artist: int, ordinal: int) -> int:
        """A track of the artist that is released by then: from the latest release, or from those
        this listener knows (many of a favourite, a few of others), weighted towards the best liked.
        """
        releases, slots = self._released(artist, ordinal)
        if rng.random() < 0.1:
            return artist * TRACKS_PER_ARTIST + rng.choice(releases[-1].slots())
        known = min(slots, 2 + int(130 / (self._rank[artist] + 1) ** 0.7))
        first = self.seed * 7919 + artist * 104_729
        return artist * TRACKS_PER_ARTIST + (first + int(known * rng.random() ** 1.8)) % slots

    def _released(self, artist: int, ordinal: int) -> tuple[Sequence[Release], int]:
        """The artist's releases by a date, and the number of tracks on them."""
        releases = self.catalogue.releases(artist)
        # At least the debut: plays in 1990 exist, although nothing may have been released by then.
        out = max(1, bisect(releases, ordinal, key=lambda release: release.date.toordinal()))
        return releases[:out], releases[out - 1].slots().stop

    def _album(self, rng: Random, track: int) -> Iterator[int]:
        artist = track // TRACKS_PER_ARTIST
        slots = self.catalogue.releases(artist)[self.catalogue.release_of(track)].slots()
        until = len(slots) if rng.random() < 0.6 else rng.randint(1, len(slots))
        return (artist * TRACKS_PER_ARTIST + slot for slot in slots[:until])

    def _album_context(self, track: int) -> str:
        release = self.catalogue.release_of(track)
        return f"spotify:album:{self.catalogue.album_id(track // TRACKS_PER_ARTIST, release)}"

    def artists_of_the_month(self, month: int) -> Sequence[int]:
        """Two dozen artists that the listener plays more often during a period of 28 days."""
        rng = seeded(self.seed, self.user_id, "month", month)
        return [self._artists[rng.randrange(30, len(self._artists))] for _ in range(25)]

    @cached_property
    def _artists(self) -> "array[int]":
        """This listener's ranking of artists: popular ones and a few genres first."""
        rng = seeded(self.seed, self.user_id, "taste")
        catalogue = self.catalogue
        liked = set(rng.sample(range(len(GENRES)), 6))
        keys = [
            rng.expovariate(5 if catalogue.main_genre(artist) in liked else 1)
            * (artist + 30) ** 0.5
            for artist in range(catalogue.size)
        ]
        order = sorted(range(catalogue.size), key=keys.__getitem__)
        return array("I", order[: self.kind.artists])

    @cached_property
    def _rank(self) -> dict[int, int]:
        return {artist: rank for rank, artist in enumerate(self._artists)}


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
    """One listener's plays, computed on demand, none before the local date `since`.

    Recently used days are cached. Raises ZoneInfoNotFoundError for an unknown zone.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        seed: int,
        user_id: str,
        timezone: str,
        kind: ListenerKind = HEAVY,
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
        self._day = lru_cache(_DAYS_KEPT)(self._make_day)
        # Top lists count a year: its track numbers fit into memory, its plays are many times that.
        self.tracks_of_day = cache(self._tracks_of_day)

    def plays(self, from_ms_: int, to_ms_: int) -> list[Play]:
        """The plays whose end lies in (from, to], oldest first."""
        first, last = self._ordinal(from_ms_) - 1, self._ordinal(to_ms_) + 1
        return [
            play
            for ordinal in range(first, last + 1)
            for play in self._day(ordinal)
            if from_ms_ < play.end_ms <= to_ms_
        ]

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

    def _tracks_of_day(self, ordinal: int) -> "array[int]":
        """The track numbers played on a listening day, a proleptic ordinal."""
        return array("I", (play.track for play in self._plays_of_day(ordinal)))

    def _make_day(self, ordinal: int) -> tuple[Play, ...]:
        """The plays of the listening day that starts on a local date (proleptic ordinal)."""
        return tuple(self._plays_of_day(ordinal))

    def _plays_of_day(self, ordinal: int) -> Iterator[Play]:
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


def _poisson(rng: Random, mean: float) -> int:
    """A Poisson-distributed number (Knuth's algorithm; means here are below 30)."""
    limit, product, count = exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count
