"""Every kind of fault by its name, and the rules for which calls an active fault hits."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from spotify_pipeline.simulator.faults import edits, refusals, wire
from spotify_pipeline.simulator.faults.base import ENDPOINTS, Fault, Replaces
from spotify_pipeline.simulator.http.responses import Json


def name_of(kind: type[Fault]) -> str:
    """Snake-case name of a fault class: `RateLimited` is `rate_limited`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _faults_of(module: ModuleType) -> Iterator[type[Fault]]:
    """The fault classes defined in a module, in order."""
    for value in vars(module).values():
        is_fault = isinstance(value, type) and issubclass(value, Fault)
        if is_fault and value.__module__ == module.__name__:
            yield value


KINDS: dict[str, type[Fault]] = {
    name_of(kind): kind for module in (refusals, edits, wire) for kind in _faults_of(module)
}


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

    def strikes(self, endpoint: str, user_id: str) -> bool:
        """Counts a call if it matches; returns whether the fault hits it."""
        if (
            endpoint not in self.fault.endpoints
            or self.endpoint not in (None, endpoint)
            or self.user_id not in (None, user_id)
            or self.hits == self.times
        ):
            return False
        self.seen += 1
        struck = self.seen % self.every == 0
        self.hits += struck
        return struck

    def to_json(self) -> Json:
        """All fields but the fault's own options."""
        return {name: value for name, value in vars(self).items() if name != "fault"}


@dataclass
class FaultBook:
    """The active rules, in the order they were added."""

    rules: list[Rule] = field(default_factory=list)
    _last: int = 0

    def add(
        self, kind: str, options: Json, *, endpoint: str | None, every: int, **whom: Any
    ) -> Rule:
        """Adds a rule. Raises ValueError whose message is a sentence about what is wrong."""
        if kind not in KINDS:
            raise ValueError(f"fault {kind} is none of {', '.join(KINDS)}")
        if endpoint is not None and endpoint not in KINDS[kind].endpoints:
            known = KINDS[kind].endpoints if endpoint in ENDPOINTS else ENDPOINTS
            raise ValueError(f"endpoint {endpoint} of fault {kind} is none of {', '.join(known)}")
        if every < 1:
            raise ValueError("every must be 1 or more")
        try:
            fault = KINDS[kind](**options)
        except TypeError as unknown:
            raise ValueError(f"fault {kind}: {unknown}") from None
        self._last += 1
        self.rules.append(Rule(fault, kind, self._last, endpoint, every=every, **whom))
        return self.rules[-1]

    def clear(self, number: int | None = None) -> None:
        """Removes one rule or all."""
        self.rules = [rule for rule in self.rules if number not in (None, rule.number)]

    def strike(self, endpoint: str, user_id: str) -> Iterator[Rule]:
        """The rules that hit a call: all that delay or edit, up to the first that replaces."""
        for rule in self.rules:
            if rule.strikes(endpoint, user_id):
                yield rule
                if isinstance(rule.fault, Replaces):
                    return
