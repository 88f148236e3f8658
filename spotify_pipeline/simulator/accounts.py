"""A person at Spotify: what the feed and the top lists show of what was played."""

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from spotify_pipeline.domain.scopes import SCOPES
from spotify_pipeline.simulator.catalogue import TRACKS_PER_ARTIST
from spotify_pipeline.simulator.listeners import Listener, Play
from spotify_pipeline.simulator.shapes import Shape

WINDOW = 50
RANGE_DAYS = {"short_term": 28, "medium_term": 182, "long_term": 365}
# How far back the feed looks for 50 plays. The lightest listener has weeks of silence.
_FEED_DAYS = 200
TopKind = Literal["artists", "tracks"]


@dataclass
class Account:
    """A listener with a name, permissions and what was served so far."""

    listener: Listener
    display_name: str | None
    account_id: str
    refresh_token: str
    shape: Shape = "development"
    scopes: tuple[str, ...] = SCOPES
    longest_delay_ms: int = 0
    # played_at in ms of every play in an answer that was sent whole → instant of the first one.
    served: dict[int, dt.datetime] = field(default_factory=dict)
    tops: dict[tuple[TopKind, str], tuple[int, list[int]]] = field(default_factory=dict)

    @property
    def user_id(self) -> str:
        """Spotify's id of the user, which is the listener's."""
        return self.listener.user_id

    def delay_ms(self, play: Play) -> int:
        """How long after its end a play appears in the feed."""
        return self.listener.delay_ms(play, self.longest_delay_ms)

    def mark_served(self, plays: Iterable[Play], now: dt.datetime) -> None:
        """Notes that plays were in an answer."""
        for play in plays:
            self.served.setdefault(play.end_ms, now)

    def window(self, now_ms: int) -> tuple[list[Play], bool]:
        """The last 50 published plays, newest first, and whether older ones exist."""
        window: list[Play] = []
        for play in self.listener.backwards(now_ms, _FEED_DAYS):
            if play.end_ms + self.delay_ms(play) <= now_ms:
                if len(window) == WINDOW:
                    return window, True
                window.append(play)
        return window, False

    def top(self, kind: TopKind, time_range: str, now: dt.datetime) -> list[int]:
        """Artists or tracks by plays in the days before today, best first; made once a day."""
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
