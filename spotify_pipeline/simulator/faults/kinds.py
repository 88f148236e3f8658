"""Registry of faults: every kind by its name in the control API and on the command line."""

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from spotify_pipeline.simulator.faults import edits, refusals, wire
from spotify_pipeline.simulator.faults.base import ENDPOINTS, Fault, FaultBook, Rule


def name_of(kind: type[Fault]) -> str:
    """Snake-case name of a fault class: `RateLimited` is `rate_limited`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _faults_of(module: ModuleType) -> Iterator[type[Fault]]:
    """The public fault classes defined in a module, in order."""
    for name, value in vars(module).items():
        is_fault = isinstance(value, type) and issubclass(value, Fault)
        if is_fault and value.__module__ == module.__name__ and not name.startswith("_"):
            yield value


KINDS: dict[str, type[Fault]] = {
    name_of(kind): kind for module in (refusals, edits, wire) for kind in _faults_of(module)
}


def add_fault(
    book: FaultBook,
    kind: str,
    options: dict[str, Any] | None = None,
    *,
    endpoint: str | None = None,
    user_id: str | None = None,
    times: int | None = None,
    every: int = 1,
) -> Rule:
    """Activates a fault. Raises ValueError whose message is a sentence about what is wrong."""
    if kind not in KINDS:
        raise ValueError(f"fault {kind} is none of {', '.join(KINDS)}")
    if endpoint is not None and endpoint not in KINDS[kind].endpoints:
        known = KINDS[kind].endpoints if endpoint in ENDPOINTS else ENDPOINTS
        raise ValueError(f"endpoint {endpoint} of fault {kind} is none of {', '.join(known)}")
    if every < 1:
        raise ValueError("every must be 1 or more")
    try:
        fault = KINDS[kind](**(options or {}))
    except TypeError as unknown:
        raise ValueError(f"fault {kind}: {unknown}") from None
    return book.add(fault, kind, endpoint=endpoint, user_id=user_id, times=times, every=every)
