"""Spotify accounts of listeners, their top lists and plays served so far, and all tokens."""

import datetime as dt
import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from spotify_pipeline.domain.model import SCOPES
from spotify_pipeline.simulator.http.responses import Shape
from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST
from spotify_pipeline.simulator.music.feed import Feed, Item
from spotify_pipeline.simulator.music.listeners import Listener, from_ms
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.records import Listing

RANGE_DAYS = {"short_term": 28, "medium_term": 182, "long_term": 365}
TopKind = Literal["artists", "tracks"]
ACCESS_SECONDS = 3600.0
# A restarted simulator accepts tokens that had been rotated at most this often.
_GENERATIONS_KNOWN = 20


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


class Tokens:
    """All tokens issued, and their owners."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.client_id = self._derive("client_id").hex()[:32]
        self.client_secret = self._derive("client_secret").hex()[:32]
        self._generations: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._revoked: set[str] = set()
        self._access: dict[str, tuple[str, float]] = {}

    def connect(self, user_id: str) -> str:
        """Returns the refresh token of a new or a known user."""
        for generation in range(_GENERATIONS_KNOWN):
            self._owners[self._refresh_token(user_id, generation)] = user_id
        token = self._refresh_token(user_id, self._generations.setdefault(user_id, 0))
        self._revoked.discard(token)
        return token

    def rotate(self, user_id: str) -> str:
        """Revokes the user's refresh token and issues the next one."""
        self.revoke(user_id)
        self._generations[user_id] += 1
        token = self._refresh_token(user_id, self._generations[user_id])
        self._owners[token] = user_id
        return token

    def revoke(self, user_id: str) -> None:
        """Revokes the user's refresh token, as when the listener removes the app."""
        self._revoked.add(self._refresh_token(user_id, self._generations[user_id]))

    def owner_of_refresh(self, token: str) -> str | Literal[False] | None:
        """The owner of a refresh token; False if it is revoked, None if unknown."""
        return False if token in self._revoked else self._owners.get(token)

    def issue_access(self, user_id: str) -> str:
        """Issues an access token."""
        token = "BQ" + secrets.token_urlsafe(120)
        self._access[token] = (user_id, time.monotonic() + ACCESS_SECONDS)
        return token

    def owner_of_access(self, token: str) -> str | Literal[False] | None:
        """The owner of an access token; False if it expired, None if unknown."""
        if token not in self._access:
            return None
        user_id, expires = self._access[token]
        return user_id if time.monotonic() < expires else False

    def expire_access(self, user_id: str | None = None) -> int:
        """Expires the access tokens of one user, or of all. Returns their number."""
        owners = ((token, owner) for token, (owner, _) in self._access.items())
        tokens = [token for token, owner in owners if user_id in (None, owner)]
        for token in tokens:
            self._access[token] = (self._access[token][0], 0.0)
        return len(tokens)

    def issued(self) -> list[str]:
        """Every refresh and access token issued so far."""
        refresh = [
            self._refresh_token(user_id, generation)
            for user_id, newest in self._generations.items()
            for generation in range(newest + 1)
        ]
        return [*refresh, *self._access]

    def _refresh_token(self, user_id: str, generation: int) -> str:
        secret = self._derive(f"refresh/{generation}/{user_id}") * 3
        return "AQ" + urlsafe_b64encode(secret).decode().rstrip("=")

    def _derive(self, what: str) -> bytes:
        return hmac.digest(f"simulator/{self._seed}".encode(), what.encode(), "sha256")
