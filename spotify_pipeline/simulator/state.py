"""The simulator's state: clock, listeners, tokens, limits, faults, and the log of calls.

Two clocks, as in the pipeline: plays use the simulated clock, which can be stopped and moved;
tokens, limits and the log of calls use real time, so that moving a day ahead expires no token.
"""

import datetime as dt
import math
import time
from collections import deque
from dataclasses import dataclass, field

from spotify_pipeline.simulator.accounts import Account, Tokens
from spotify_pipeline.simulator.faults.kinds import FaultBook
from spotify_pipeline.simulator.http.responses import Refusal, Shapes, error
from spotify_pipeline.simulator.music.catalogue import Catalogue
from spotify_pipeline.simulator.music.listeners import (
    LISTENER_KINDS,
    Listener,
    first_listeners,
    to_ms,
)
from spotify_pipeline.simulator.music.seeds import spotify_id
from spotify_pipeline.simulator.records import CallRecord

_CALLS_KEPT = 200_000
_RATE_SECONDS = 30.0
_QUOTA_SECONDS = 86_400.0


def pipeline_environment(url: str, client_id: str, client_secret: str) -> dict[str, str]:
    """The environment variables that point the pipeline at a simulator."""
    return {
        "SPOTIFY_API_URL": url,
        "SPOTIFY_ACCOUNTS_URL": url,
        "SPOTIFY_CLIENT_ID": client_id,
        "SPOTIFY_CLIENT_SECRET": client_secret,
        # The simulator bans no app, so the pipeline need not limit itself.
        "SPOTIFY_PIPELINE_CALLS_PER_30S": "0",
        "SPOTIFY_PIPELINE_CALLS_PER_DAY": "0",
    }


@dataclass
class Limits:
    """Spotify's rate limits of an app: rolling windows of 30 seconds and 24 hours; None: no limit.

    Real time. Refused calls do not count, so a client that waits succeeds.
    """

    calls_per_30s: int | None = None
    calls_per_day: int | None = None
    _allowed: deque[float] = field(default_factory=deque)

    def check(self) -> None:
        """Counts a call, or raises the 429 that Spotify sends."""
        now = time.monotonic()
        while self._allowed and self._allowed[0] <= now - _QUOTA_SECONDS:
            self._allowed.popleft()
        day = error(429, "Too many requests", reason="QUOTA_EXCEEDED")
        rate = error(429, "API rate limit exceeded")
        for limit, seconds, body in (
            (self.calls_per_day, _QUOTA_SECONDS, day),
            (self.calls_per_30s, _RATE_SECONDS, rate),
        ):
            if limit is not None and len(self._allowed) >= limit:
                wait = self._allowed[-limit] + seconds - now
                if wait > 0:
                    raise Refusal(429, body, {"Retry-After": str(math.ceil(wait))})
        self._allowed.append(now)


class SimulatorState:
    """All state of a simulator. One per process, used from one thread."""

    def __init__(self, seed: int = 1, listeners: int = 0, now: dt.datetime | None = None) -> None:
        self.seed = seed
        # Where the simulated clock stands still; None: it shows the real time.
        self.stopped_at = now
        self.catalogue = Catalogue(seed)
        self.shapes = Shapes(self.catalogue)
        self.tokens = Tokens(seed)
        self.limits = Limits()
        self.faults = FaultBook()
        self.accounts: dict[str, Account] = {}
        # The redirect addresses of the app; None: any safe one.
        self.redirect_uris: frozenset[str] | None = None
        self.calls: deque[CallRecord] = deque(maxlen=_CALLS_KEPT)
        # Calls that arrived before this instant (Unix seconds) are not logged.
        self.calls_since = 0.0
        for new in first_listeners(listeners, seed):
            self.add(new.user_id, new.timezone, new.kind, new.display_name)

    def add(
        self,
        user_id: str,
        timezone: str = "UTC",
        kind: str = "heavy",
        display_name: str | None = None,
        seed: int | None = None,
        since: dt.date | None = None,
    ) -> Account:
        """Adds a listener, or replaces the one with that id. The same seed and id give the same
        plays and the same refresh token. Raises KeyError or ZoneInfoNotFoundError.
        """
        own_seed = self.seed if seed is None else seed
        account = Account(
            Listener(self.catalogue, own_seed, user_id, timezone, LISTENER_KINDS[kind], since),
            display_name,
            spotify_id(self.seed, "account", user_id),
            self.tokens.connect(user_id),
        )
        self.accounts[user_id] = account
        return account

    def rotate_refresh_token(self, account: Account) -> str:
        """Gives a user a new refresh token and revokes the old one."""
        account.refresh_token = self.tokens.rotate(account.user_id)
        return account.refresh_token

    def now(self) -> dt.datetime:
        """The simulated time, UTC."""
        return self.stopped_at or dt.datetime.now(dt.UTC)

    def now_ms(self) -> int:
        """The simulated time in Unix milliseconds."""
        return to_ms(self.now())
