"""A listener's Spotify account: permissions, plays served so far, and top lists."""

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from spotify_pipeline.domain.model import SCOPES
from spotify_pipeline.simulator.http.shapes import Shape
from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST
from spotify_pipeline.simulator.music.feed import Feed, Item
from spotify_pipeline.simulator.music.listeners import Listener, from_ms
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.records import Listing

RANGE_DAYS = {"short_term": 28, "medium_term": 182, "long_term": 365}
TopKind = Literal["artists", "tracks"]


@dataclass
class Account:
    """A listener's Spotify account: name, permissions and the plays served so far."""

    listener: Listener
    display_name: str | None
    account_id: str
    refresh_token: str
    shape: Shape = "development"
    scopes: tuple[str, ...] = SCOPES
    longest_delay_ms: int = 0
    oddities: Oddities = field(default_factory=Oddities)
    # Number of recently-played responses so far; the order within the same instant depends on it.
    pages: int = 0
    # `Play.end_ms` of every play in a response that was sent completely → each (played_at, track
    # id) under which it was served, with the values of the first time.
    served: dict[int, dict[tuple[dt.datetime, str], Listing]] = field(default_factory=dict)
    tops: dict[tuple[TopKind, str], tuple[int, list[int]]] = field(default_factory=dict)

    @property
    def user_id(self) -> str:
        """Spotify's user id, equal to the listener's id."""
        return self.listener.user_id

    @property
    def feed(self) -> Feed:
        """The recently-played feed of the listener."""
        return Feed(self.listener, self.oddities, self.longest_delay_ms)

    def shown(self, item: Item, now_ms: int) -> Listing:
        """How a page lists an item at this instant."""
        names = self.feed.track(item.play.track, now_ms, relinked=item.relinked)
        return Listing(from_ms(item.stamp_ms), names.spotify_id, names.duration_ms)

    def mark_served(self, items: Iterable[Item], now_ms: int) -> None:
        """Records that plays were in a response, and under which instant and track id."""
        for item in items:
            shown = self.shown(item, now_ms)
            versions = self.served.setdefault(item.play.end_ms, {})
            versions.setdefault((shown.played_at, shown.track_id), shown)

    def top(self, kind: TopKind, time_range: str, now: dt.datetime) -> list[int]:
        """Artists or tracks by plays in the days before today, best first; cached per day."""
        today = now.toordinal()
        made_on, best = self.tops.get((kind, time_range), (0, []))
        if made_on == today:
            return best
        counts: Counter[int] = Counter()
        for ordinal in range(today - RANGE_DAYS[time_range], today):
            counts.update(self.listener.tracks_of_day(ordinal))
        if kind == "artists":
            artists: Counter[int] = Counter()
            for track, plays in counts.items():
                artists[track // TRACKS_PER_ARTIST] += plays
            counts = artists
        best = sorted(counts, key=lambda item: (-counts[item], item))
        self.tops[kind, time_range] = (today, best)
        return best
