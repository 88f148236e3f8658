"""Spotify's own limits on an app: a rolling window of 30 seconds, and a quota of 24 hours.

Real time. Calls that were refused do not count, so that whoever waits gets through.
"""

import math
import time
from collections import deque
from dataclasses import dataclass, field

from spotify_pipeline.simulator.http.refusal import Refusal
from spotify_pipeline.simulator.http.shapes import error

# It bans nobody: without limits of its own the pipeline need not hold back either.
UNLIMITED_PIPELINE = {
    "SPOTIFY_PIPELINE_CALLS_PER_30S": "0",
    "SPOTIFY_PIPELINE_CALLS_PER_DAY": "0",
}

RATE_SECONDS = 30.0
QUOTA_SECONDS = 86_400.0


@dataclass
class Limits:
    """How many calls are allowed; None: any number."""

    calls_per_30s: int | None = None
    calls_per_day: int | None = None
    _allowed: deque[float] = field(default_factory=deque)

    def check(self) -> None:
        """Counts a call, or raises the 429 that Spotify sends."""
        now = time.monotonic()
        while self._allowed and self._allowed[0] <= now - QUOTA_SECONDS:
            self._allowed.popleft()
        if self.calls_per_day is not None and len(self._allowed) >= self.calls_per_day:
            wait = self._allowed[-self.calls_per_day] + QUOTA_SECONDS - now
            body = error(429, "Too many requests", reason="QUOTA_EXCEEDED")
            raise Refusal(429, body, {"Retry-After": str(math.ceil(wait))})
        limit = self.calls_per_30s
        if limit is not None and len(self._allowed) >= limit:
            wait = self._allowed[-limit] + RATE_SECONDS - now
            if wait > 0:
                body = error(429, "API rate limit exceeded")
                raise Refusal(429, body, {"Retry-After": str(math.ceil(wait))})
        self._allowed.append(now)
