"""The music catalogue: artists, albums and tracks as a pure function of a seed.

An artist is an index, a track is a number: `artist * TRACKS_PER_ARTIST + slot`. Release dates are
computed for played artists, names only for displayed ones.
"""

import datetime as dt
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import exp, log
from random import Random
from statistics import NormalDist
from typing import Literal

from spotify_pipeline.simulator.music.seeds import GENRES, artist_name, seeded, spotify_id, title

TRACKS_PER_ARTIST = 256
# Every debut precedes any requested play, so that a released track always exists.
_LAST_DEBUT = dt.date(2017, 12, 31)
_LAST_RELEASE = dt.date(2031, 12, 31)
_MOST_RELEASES = 16
_LENGTHS_MS = [
    int(exp(NormalDist(log(203_000), 0.28).inv_cdf((step + 0.5) / 1024))) for step in range(1024)
]


@dataclass(frozen=True, slots=True)
class Release:
    """An album, EP or single: its first slot, its number of tracks, its date."""

    first_slot: int
    size: int
    date: dt.date

    def slots(self) -> range:
        """The slots of its tracks, in order."""
        return range(self.first_slot, self.first_slot + self.size)


@dataclass(frozen=True, slots=True)
class ArtistNames:
    """Display data of an artist: id, name, genres, popularity 0-100."""

    spotify_id: str
    name: str
    genres: tuple[str, ...]
    popularity: int


@dataclass(frozen=True, slots=True)
class AlbumNames:
    """Display data of a release; `release_date` as sent, in its precision."""

    spotify_id: str
    name: str
    album_type: Literal["album", "single", "compilation"]
    release_date: str
    precision: Literal["year", "month", "day"]
    size: int


@dataclass(frozen=True, slots=True)
class TrackNames:
    """Display data of a track. The first of `artists` (indexes) is the primary artist."""

    spotify_id: str
    name: str
    artists: tuple[int, ...]
    release: int
    track_number: int
    duration_ms: int
    explicit: bool
    isrc: str
    popularity: int


class Catalogue:
    """A catalogue of `size` artists, most popular first."""

    def __init__(self, seed: int, size: int = 8000) -> None:
        self.seed = seed
        self.size = size
        self.releases = cache(self._releases)
        self.artist = cache(self._artist)
        self.album = cache(self._album)
        self.track = cache(self._track)

    def genres(self, artist: int) -> tuple[str, ...]:
        """Up to three genres of an artist; one artist in eight has none at Spotify."""
        rng = seeded(self.seed, "genres", artist)
        first = self.main_genre(artist)
        count = rng.choice((0, 1, 1, 2, 2, 2, 3, 3))
        return tuple(GENRES[(first + step * step) % len(GENRES)] for step in range(count))

    def main_genre(self, artist: int) -> int:
        """The first genre of an artist, as an index of GENRES."""
        return artist % len(GENRES)

    def album_id(self, artist: int, number: int) -> str:
        """The id of an artist's release."""
        return spotify_id(self.seed, "album", artist, number)

    def duration_ms(self, track: int) -> int:
        """Length of a track: median 203 s, range 1.5 to 8 minutes."""
        # Multiplicative hashing: a generator per played track would cost a second.
        mixed = ((track + self.seed) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 20
        return _LENGTHS_MS[mixed % len(_LENGTHS_MS)] + mixed // len(_LENGTHS_MS) % 1000

    def release_of(self, track: int) -> int:
        """The number of the release that contains a track, among those of its artist."""
        artist, slot = divmod(track, TRACKS_PER_ARTIST)
        return bisect(self.releases(artist), slot, key=lambda release: release.first_slot) - 1

    def _releases(self, artist: int) -> tuple[Release, ...]:
        """The releases of an artist, oldest first."""
        rng = seeded(self.seed, "discography", artist)
        dates = list(_release_dates(rng))
        if len(dates) > _MOST_RELEASES:
            dates = [dates[0], *dates[1 - _MOST_RELEASES :]]
        releases, slot = [], 0
        for date in dates:
            size = rng.choice((1, 1, 4, 5, 9, 10, 11, 12, 12, 14))
            releases.append(Release(slot, size, date))
            slot += size
        return tuple(releases)

    def _artist(self, artist: int) -> ArtistNames:
        rng = seeded(self.seed, "artist", artist)
        popularity = 92 - 9 * log(artist + 1) + rng.gauss(0, 7)
        return ArtistNames(
            spotify_id(self.seed, "artist", artist),
            artist_name(rng),
            self.genres(artist),
            round(min(max(popularity, 0), 100)),
        )

    def _album(self, artist: int, number: int) -> AlbumNames:
        rng = seeded(self.seed, "album", artist, number)
        release = self.releases(artist)[number]
        precision: Literal["year", "month", "day"] = "day"
        if release.date.year < 1995:
            precision = rng.choice(("year", "year", "year", "month", "day"))
        shown = {"year": 4, "month": 7, "day": 10}[precision]
        return AlbumNames(
            self.album_id(artist, number),
            title(rng),
            "single" if release.size < 6 else "album",
            release.date.isoformat()[:shown],
            precision,
            release.size,
        )

    def _track(self, track: int) -> TrackNames:
        artist, slot = divmod(track, TRACKS_PER_ARTIST)
        rng = seeded(self.seed, "track", track)
        number = self.release_of(track)
        guests = (rng.randrange(self.size),) if rng.random() < 0.12 else ()
        return TrackNames(
            spotify_id(self.seed, "track", track),
            title(rng),
            (artist, *(guest for guest in guests if guest != artist)),
            number,
            slot - self.releases(artist)[number].first_slot + 1,
            self.duration_ms(track),
            rng.random() < 0.15,
            f"QZ{rng.choice('ABCDEFGH')}{rng.randrange(100):02d}{rng.randrange(10**7):07d}",
            round(min(max(self.artist(artist).popularity - rng.expovariate(0.08), 0), 100)),
        )


def _release_dates(rng: Random) -> Iterator[dt.date]:
    """The dates of an artist's releases, oldest first; four in ten artists are still active."""
    date = _LAST_DEBUT - dt.timedelta(days=int(365 * min(rng.expovariate(1 / 10), 50)))
    last = _LAST_RELEASE if rng.random() < 0.4 else _LAST_DEBUT + dt.timedelta(days=365)
    most = 40 if last is _LAST_RELEASE else rng.choice((2, 3, 4, 6, 8, 10))
    for _ in range(most):
        if date > last:
            return
        yield date
        date += dt.timedelta(days=rng.randint(150, 1100))
