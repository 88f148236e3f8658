"""Chooses a listener's next track: favourites with a long tail, albums, artists of the month."""

from array import array
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import accumulate
from random import Random

from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST, Catalogue, Release
from spotify_pipeline.simulator.music.listener_kinds import ListenerKind
from spotify_pipeline.simulator.music.seeds import GENRES, seeded


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
        releases = self.catalogue.discography(artist).releases
        # At least the debut: plays in 1990 exist, although nothing may have been released by then.
        out = max(1, bisect(releases, ordinal, key=lambda release: release.date.toordinal()))
        return releases[:out], releases[out - 1].slots().stop

    def _album(self, rng: Random, track: int) -> Iterator[int]:
        artist, slot = divmod(track, TRACKS_PER_ARTIST)
        discography = self.catalogue.discography(artist)
        slots = discography.releases[discography.release_of(slot)].slots()
        until = len(slots) if rng.random() < 0.6 else rng.randint(1, len(slots))
        return (artist * TRACKS_PER_ARTIST + slot for slot in slots[:until])

    def _album_context(self, track: int) -> str:
        artist, slot = divmod(track, TRACKS_PER_ARTIST)
        release = self.catalogue.discography(artist).release_of(slot)
        return f"spotify:album:{self.catalogue.album_id(artist, release)}"

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
