"""Base classes of faults (delay, edit, replace a response), and the rules for which calls they hit.

A kind of fault is a frozen dataclass whose fields are its options, all JSON values.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from starlette.responses import Response

from spotify_pipeline.simulator.http.responses import Json

TOKEN = "token"  # noqa: S105  # the endpoint's name
PLAYS = "recently_played"
TOPS = ("top_artists", "top_tracks")
API = ("me", PLAYS, *TOPS)
ENDPOINTS = (TOKEN, *API)


@dataclass(frozen=True)
class Scene:
    """What an edit may use: the simulated time, and a function that rotates the refresh token."""

    now: dt.datetime
    rotate_refresh_token: Callable[[], str]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at certain endpoints."""

    endpoints: ClassVar[tuple[str, ...]] = ENDPOINTS


@dataclass(frozen=True)
class Delays(Fault):
    """Delays the response; everything else still happens."""

    seconds: float = 1.0


@dataclass(frozen=True)
class Edits(Fault):
    """Changes a successful response; the status stays 200."""

    def edit(self, body: Json, scene: Scene) -> Json:
        """Returns the changed body. Must not change `body` in place: its parts are shared."""
        raise NotImplementedError


@dataclass(frozen=True)
class Replaces(Fault):
    """Sends another response instead of the successful one."""

    def response(self, body: Json) -> Response:
        """The response to send instead of this body."""
        raise NotImplementedError


@dataclass
class Rule:
    """A fault and the calls it hits: one endpoint or all the kind supports, one user or all.

    It hits every `every`-th matching call, at most `times` times (None: until cleared).
    """

    fault: Fault
    kind: str
    number: int
    endpoint: str | None = None
    user_id: str | None = None
    times: int | None = None
    every: int = 1
    seen: int = 0
    hits: int = 0

    def matches(self, endpoint: str, user_id: str) -> bool:
        return (
            endpoint in self.fault.endpoints
            and self.endpoint in (None, endpoint)
            and self.user_id in (None, user_id)
            and (self.times is None or self.hits < self.times)
        )

    def strikes(self) -> bool:
        """Counts a matching call; returns True if the fault hits it."""
        self.seen += 1
        struck = self.seen % self.every == 0
        self.hits += struck
        return struck

    def to_json(self) -> Json:
        about: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        return about | {"options": asdict(self.fault)}


_FIELDS = ("kind", "number", "endpoint", "user_id", "times", "every", "seen", "hits")


@dataclass
class FaultBook:
    """The active rules, in the order they were added."""

    rules: list[Rule] = field(default_factory=list)
    _last: int = 0

    def add(self, fault: Fault, kind: str, **whom: Any) -> Rule:
        """Adds a rule."""
        self._last += 1
        rule = Rule(fault, kind, self._last, **whom)
        self.rules.append(rule)
        return rule

    def clear(self, number: int | None = None) -> int:
        """Removes one rule or all; returns how many."""
        kept = [] if number is None else [rule for rule in self.rules if rule.number != number]
        ended = len(self.rules) - len(kept)
        self.rules = kept
        return ended

    def strike(self, endpoint: str, user_id: str) -> Iterator[Rule]:
        """The rules that hit a call: all that delay or edit, up to the first that replaces."""
        for rule in self.rules:
            if rule.matches(endpoint, user_id) and rule.strikes():
                yield rule
                if isinstance(rule.fault, Replaces):
                    return
