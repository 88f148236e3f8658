"""The world: clock, listeners, tokens, and what was served to whom.

Two clocks, as in the pipeline: plays happen on the world's clock, which can stand still and be
moved; tokens, limits and the log of calls use real time, so that moving a day ahead does not make
every access token expire.
"""

import datetime as dt
import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from spotify_pipeline.simulator.catalogue import TRACKS_PER_ARTIST, Catalogue
from spotify_pipeline.simulator.listeners import (
    Listener,
    Play,
    make_listener,
    to_ms,
)
from spotify_pipeline.simulator.persons import cast
from spotify_pipeline.simulator.shapes import Shape, Shapes, account_id

SCOPES = ("user-read-recently-played", "user-top-read")
ACCESS_SECONDS = 3600.0
WINDOW = 50
_CALLS_KEPT = 200_000
# How far back the feed looks for 50 plays. The lightest listener has weeks of silence.
_FEED_DAYS = 200
RANGE_DAYS = {"short_term": 28, "medium_term": 182, "long_term": 365}
TopKind = Literal["artists", "tracks"]


class Call(NamedTuple):
    """One call that was answered: real time in Unix seconds, endpoint, user if known, status."""

    at: float
    endpoint: str
    user_id: str | None
    status: int


@dataclass
class Clock:
    """Real time, or an instant at which the world stands still until it is moved."""

    fixed: dt.datetime | None = None

    def now(self) -> dt.datetime:
        """The world's time, UTC."""
        return self.fixed or dt.datetime.now(dt.UTC)


@dataclass
class Account:
    """A person at Spotify."""

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


class World:
    """Everything the simulator knows. One per process, used from one thread."""

    def __init__(self, seed: int = 1, listeners: int = 0, now: dt.datetime | None = None) -> None:
        self.seed = seed
        self.clock = Clock(now)
        self.catalogue = Catalogue(seed)
        self.shapes = Shapes(self.catalogue)
        # Derived from the seed: a simulator started again knows the tokens that were stored.
        self.client_id = self._derive("client_id").hex()[:32]
        self.client_secret = self._derive("client_secret").hex()[:32]
        self.accounts: dict[str, Account] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.revoked_tokens: set[str] = set()
        self.access_tokens: dict[str, tuple[str, float]] = {}
        self.calls: deque[Call] = deque(maxlen=_CALLS_KEPT)
        for role in cast(listeners, seed):
            self.add(role.user_id, role.timezone, role.person, role.display_name)

    def add(
        self,
        user_id: str,
        timezone: str = "UTC",
        person: str = "heavy",
        display_name: str | None = None,
        seed: int | None = None,
        since: dt.date | None = None,
    ) -> Account:
        """Adds a listener, or replaces the one of that id. The same seed and id give the same
        plays and the same refresh token. Raises KeyError or ZoneInfoNotFoundError."""
        own_seed = self.seed if seed is None else seed
        account = Account(
            make_listener(self.catalogue, own_seed, user_id, timezone, person, since),
            display_name,
            account_id(self.seed, user_id),
            self.refresh_token_for(user_id),
        )
        self.accounts[user_id] = account
        self.refresh_tokens[account.refresh_token] = user_id
        return account

    def refresh_token_for(self, user_id: str, generation: int = 0) -> str:
        """The refresh token of a user; each rotation is one generation later."""
        secret = self._derive(f"refresh/{generation}/{user_id}") * 3
        return "AQ" + urlsafe_b64encode(secret).decode().rstrip("=")

    def issue_access_token(self, user_id: str) -> str:
        """A new access token, valid for an hour of real time."""
        token = "BQ" + secrets.token_urlsafe(120)
        self.access_tokens[token] = (user_id, time.monotonic() + ACCESS_SECONDS)
        return token

    def account_of_access_token(self, token: str) -> Account | Literal["expired", "unknown"]:
        """Whose token it is."""
        user_id, expires = self.access_tokens.get(token, ("", 0.0))
        account = self.accounts.get(user_id)
        if account is None:
            return "unknown"
        return account if time.monotonic() < expires else "expired"

    def expire_access_tokens(self, user_id: str | None = None) -> int:
        """Lets the access tokens of one user, or of all, expire now. Returns how many."""
        owners = ((token, owner) for token, (owner, _) in self.access_tokens.items())
        tokens = [token for token, owner in owners if user_id in (None, owner)]
        for token in tokens:
            self.access_tokens[token] = (self.access_tokens[token][0], 0.0)
        return len(tokens)

    def log_call(self, endpoint: str, account: Account | None, status: int) -> None:
        """Writes a call into the log."""
        user_id = account.user_id if account else None
        self.calls.append(Call(time.time(), endpoint, user_id, status))

    def now_ms(self) -> int:
        """The world's time in Unix milliseconds."""
        return to_ms(self.clock.now())

    def ledger(self, account: Account, since: dt.datetime, until: dt.datetime) -> list[Play]:
        """The plays of (since, until], until the world's now at most, oldest first."""
        until_ms = min(to_ms(until), to_ms(self.clock.now()))
        return account.listener.plays(to_ms(since), until_ms)

    def _derive(self, what: str) -> bytes:
        return hmac.digest(f"simulator/{self.seed}".encode(), what.encode(), "sha256")
