"""Every kind of fault by its name in the control interface and on the command line."""

import re
from typing import Any

from spotify_pipeline.simulator.faults import edits, refusals, wire
from spotify_pipeline.simulator.faults.base import ENDPOINTS, Fault, FaultBook, Rule

_CLASSES: tuple[type[Fault], ...] = (
    refusals.Latency,
    refusals.RateLimited,
    refusals.QuotaExceeded,
    refusals.AccessTokenExpired,
    refusals.InvalidGrant,
    refusals.InvalidClient,
    refusals.Forbidden,
    refusals.ServerError,
    refusals.Echo,
    refusals.Redirect,
    refusals.Body,
    edits.NullTracks,
    edits.LocalTracks,
    edits.EmptyArtists,
    edits.RelinkedTracks,
    edits.OddTimestamps,
    edits.FuturePlays,
    edits.Repeated,
    edits.OutOfOrder,
    edits.OddText,
    edits.NextElsewhere,
    edits.EmptyPage,
    edits.Put,
    edits.RotateRefreshToken,
    edits.NullRefreshToken,
    wire.ConnectionReset,
    wire.NoAnswer,
    wire.Truncated,
    wire.SlowLoris,
    wire.HugeBody,
    wire.NotHttp,
    wire.DeepNesting,
)


def name_of(kind: type[Fault]) -> str:
    """`RateLimited` is named `rate_limited`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


KINDS: dict[str, type[Fault]] = {name_of(kind): kind for kind in _CLASSES}


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
    """Puts a fault in force. Raises ValueError with a sentence about what is wrong."""
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
