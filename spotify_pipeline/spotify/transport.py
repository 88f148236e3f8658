"""The request loop: what is tried again, how often, and how long at most.

| answer                                     | what happens                                       |
| ------------------------------------------ | -------------------------------------------------- |
| 200 with a JSON object                     | returned                                           |
| no answer, cut, slow, 5xx                  | tried again, then SpotifyUnavailable               |
| 200 without a JSON object, 3xx, odd status | tried again, then BadResponse                      |
| 429                                        | reported; waited out once, or RateLimited          |
| other 4xx                                  | returned: its meaning is the service's             |
"""

import json
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

from spotify_pipeline.domain.quota import APP_BLOCK_SECONDS
from spotify_pipeline.spotify.backoff import backoff_seconds, retry_after_seconds
from spotify_pipeline.spotify.errors import (
    AppBlocked,
    BadResponse,
    LimitReason,
    RateLimited,
    SpotifyError,
    SpotifyUnavailable,
    Transient,
)
from spotify_pipeline.spotify.http import HttpAdapter, Limits, RawResponse
from spotify_pipeline.spotify.messages import Request, Response
from spotify_pipeline.spotify.rate_limiter import NoRateLimit, RateLimiter

# A longer wait ends the call at once, whatever the rate limiter says: urllib3's own Retry was seen
# to sleep six hours in process.
LONGEST_WAIT_SECONDS = 60


class Transport:
    """Sends requests for all threads of one process; made per process, not before a fork.

    A call takes at most `limits.total_seconds` (28 s) of wall-clock time, not counting what the
    rate limiter makes it wait. `connections` is how many are kept open per host.
    """

    def __init__(
        self,
        *,
        rate_limiter: RateLimiter | None = None,
        limits: Limits | None = None,
        connections: int = 16,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self._rate_limiter: RateLimiter = rate_limiter or NoRateLimit()
        self._limits = limits or Limits()
        self._sleep = sleep
        self._clock = clock
        self._now = now
        self._fraction = fraction
        self._adapter = HttpAdapter(self._limits, connections, clock)

    def send(self, request: Request) -> Response:
        """The answer, a 200 or a 4xx; raises SpotifyUnavailable, BadResponse or RateLimited.

        Errors of the rate limiter propagate.
        """
        left = self._limits.total_seconds
        waited_out = False
        failures = 0
        while True:
            self._rate_limiter.acquire(request.priority)
            started = self._clock()
            outcome = self._try_once(request, min(self._limits.try_seconds, left))
            left -= self._clock() - started
            if request.priority is not None and not isinstance(outcome, SpotifyUnavailable):
                self._rate_limiter.answered(request.caller)
            if isinstance(outcome, Response):
                if outcome.status == 200 and request.priority is not None:
                    self._rate_limiter.succeeded()
                return outcome
            failures += 1
            if isinstance(outcome, RateLimited):
                # Waited out once: a second 429 after the pause that Spotify named ends the call.
                if not self._wait_out(outcome) or waited_out or failures >= self._limits.tries:
                    raise outcome
                waited_out = True
                continue
            pause = backoff_seconds(failures, self._fraction())
            is_unanswered = isinstance(outcome, SpotifyUnavailable)
            if is_unanswered and not self._rate_limiter.unanswered(request.caller):
                raise outcome
            if failures >= self._limits.tries or pause >= left:
                raise outcome
            self._sleep(pause)
            left -= pause

    def report(self, refusal: SpotifyError) -> SpotifyError:
        """Returns the refusal; reports one of the app to the rate limiter."""
        if isinstance(refusal, AppBlocked):
            self._rate_limiter.blocked(APP_BLOCK_SECONDS, "APP")
        return refusal

    def close(self) -> None:
        """Closes the idle connections."""
        self._adapter.close()

    def _try_once(self, request: Request, seconds: float) -> Response | Transient | RateLimited:
        raw = self._adapter.attempt(request, seconds)
        if isinstance(raw, Transient):
            return raw
        return classify(request.endpoint, raw, self._now())

    def _wait_out(self, limit: RateLimited) -> bool:
        """Reports the pause to the rate limiter; True if the next `acquire` waits it out."""
        will_wait = self._rate_limiter.blocked(limit.retry_after_seconds, limit.reason)
        return will_wait and limit.retry_after_seconds <= LONGEST_WAIT_SECONDS


def classify(endpoint: str, raw: RawResponse, now: datetime) -> Response | Transient | RateLimited:
    """Classifies a raw response by the table above."""
    payload = _json_object(raw.body)
    if raw.status == 200:
        if payload is None:
            return BadResponse(f"{endpoint}: the body is no JSON object")
        return Response(200, payload)
    if raw.status == 429:
        wait = retry_after_seconds(raw.retry_after, now)
        return RateLimited(wait, _limit_reason(payload))
    if raw.status >= 500 or raw.status == 408:
        return SpotifyUnavailable(f"{endpoint}: status {raw.status}")
    if 400 <= raw.status < 500:
        return Response(raw.status, payload, raw.body[:4096].decode("utf-8", "replace"))
    return BadResponse(f"{endpoint}: unexpected status {raw.status}")


def _json_object(body: bytes) -> dict[str, object] | None:
    """The object, or None: not UTF-8, not JSON (NaN is not), cut off, nested without end."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError("not JSON")


def _limit_reason(payload: dict[str, object] | None) -> LimitReason:
    error = (payload or {}).get("error")
    quota = isinstance(error, dict) and error.get("reason") == "QUOTA_EXCEEDED"
    return "QUOTA" if quota else "RATE"
