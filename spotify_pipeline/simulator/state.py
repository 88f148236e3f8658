"""The world: clock, listeners, tokens, limits, faults, and the log of calls.

Two clocks, as in the pipeline: plays happen on the world's clock, which can stand still and be
moved; tokens, limits and the log of calls use real time, so that moving a day ahead does not make
every access token expire.
"""

import datetime as dt
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from spotify_pipeline.simulator.accounts import Account
from spotify_pipeline.simulator.faults.base import FaultBook
from spotify_pipeline.simulator.http.limits import Limits
from spotify_pipeline.simulator.http.shapes import Shapes, account_id
from spotify_pipeline.simulator.music.catalogue import Catalogue
from spotify_pipeline.simulator.music.listeners import make_listener, to_ms
from spotify_pipeline.simulator.music.persons import cast
from spotify_pipeline.simulator.tokens import Tokens

_CALLS_KEPT = 200_000


class Call(NamedTuple):
    """One call: its arrival in Unix seconds of real time, endpoint, user if known, the status that
    it got and the faults that hit it."""

    at: float
    endpoint: str
    user_id: str | None
    status: int
    faults: tuple[str, ...]


@dataclass
class Clock:
    """Real time, or an instant at which the world stands still until it is moved."""

    fixed: dt.datetime | None = None

    def now(self) -> dt.datetime:
        """The world's time, UTC."""
        return self.fixed or dt.datetime.now(dt.UTC)


class World:
    """Everything the simulator knows. One per process, used from one thread."""

    def __init__(self, seed: int = 1, listeners: int = 0, now: dt.datetime | None = None) -> None:
        self.seed = seed
        self.clock = Clock(now)
        self.catalogue = Catalogue(seed)
        self.shapes = Shapes(self.catalogue)
        self.tokens = Tokens(seed)
        self.limits = Limits()
        self.faults = FaultBook()
        self.accounts: dict[str, Account] = {}
        # The redirect addresses of the app; None: any safe one.
        self.redirect_uris: frozenset[str] | None = None
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
            self.tokens.connect(user_id),
        )
        self.accounts[user_id] = account
        return account

    def rotate_refresh_token(self, account: Account) -> str:
        """Gives a user a new refresh token; the old one is revoked."""
        account.refresh_token = self.tokens.rotate(account.user_id)
        return account.refresh_token

    def now_ms(self) -> int:
        """The world's time in Unix milliseconds."""
        return to_ms(self.clock.now())
