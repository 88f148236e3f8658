"""Sends requests to Spotify: one attempt, what is tried again, how often, and how long at most.

| answer                                     | what happens                                       |
| ------------------------------------------ | -------------------------------------------------- |
| 200 with a JSON object                     | returned                                           |
| no answer, cut, slow, 5xx                  | tried again, then SpotifyUnavailable               |
| 200 without a JSON object, 3xx, odd status | tried again, then BadResponse                      |
| 429                                        | reported; waited out once, or RateLimited          |
| other 4xx                                  | returned: its meaning is the service's             |

`Transport` repeats, `HttpAdapter` sends once. The adapter sends through the connection pool that
requests makes (TLS, proxies), and not through a Session, because a Session
- reads the whole body of a redirect into memory even with allow_redirects=False,
- lets an entry in .netrc replace the Authorization header,
- keeps cookies, which would send one user's with the next one's call,
- and is not promised to be safe for threads, while the pool is: one adapter serves all threads.
Preparing a request and wrapping a response as requests does took a quarter of the CPU of a call.
"""

import json
import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import Any, NoReturn
from urllib.parse import urlencode

import requests
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError, SSLError

from spotify_pipeline.domain.quota import APP_BLOCK_SECONDS, LONGEST_PAUSE_SECONDS
from spotify_pipeline.spotify.deadline_adapter import Deadline, DeadlineAdapter, keeping
from spotify_pipeline.spotify.errors import (
    AppBlocked,
    BadResponse,
    LimitReason,
    RateLimited,
    SpotifyError,
    SpotifyUnavailable,
    Transient,
)
from spotify_pipeline.spotify.messages import BaseUrl, Request, Response
from spotify_pipeline.spotify.rate_limiter import NoRateLimit, RateLimiter

NO_RETRY_AFTER_SECONDS = 30  # a 429 without the header: Spotify's rate window is 30 s long

_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]*)?", re.ASCII)


def backoff_seconds(failures: int, fraction: float) -> float:
    """The pause after `failures` (1, 2, …) failed tries: fraction · min(8, 0.5 · 2^(n-1)).

    `fraction` is drawn from [0, 1): "full jitter" of the AWS Architecture Blog, "Exponential
    Backoff And Jitter" (2015), so that many users who failed together do not come back together.
    """
    return fraction * min(8.0, 0.5 * 2.0 ** min(failures - 1, 32))


def retry_after_seconds(header: str | None, now: datetime) -> int:
    """The whole seconds that a Retry-After header asks for, from 1 to seven days.

    The header is a number of seconds or an HTTP date; absent or unreadable means 30.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    else:
        try:
            until = parsedate_to_datetime(text)
        except (ValueError, OverflowError):  # the latter: a zone of many digits
            return NO_RETRY_AFTER_SECONDS
        # RFC 5322 writes "-0000" for "UTC, zone unknown", which Python reads as a naive time.
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        seconds = (until - now).total_seconds()
    return min(max(math.ceil(seconds), 1), LONGEST_PAUSE_SECONDS)


# The most bytes of one read from the decoder. Gzip grows at most 1,032-fold: even a decoder that
# gives back everything at once stays below 17 MB.
_CHUNK_BYTES = 16 * 1024
# Of an error's body only the beginning is of use.
_ERROR_BODY_BYTES = 64 * 1024
# Asked for is gzip; anything else that is sent (chains of encodings too) is refused unread.
_ENCODINGS = ("", "identity", "gzip")

# http.client and requests raise ValueError for some malformed lengths, hosts and headers.
_FAILURES = (requests.RequestException, HTTPError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how large a call may be. Seconds are of wall-clock time."""

    connect_seconds: float = 5.0
    read_seconds: float = 8.0
    try_seconds: float = 12.0
    total_seconds: float = 28.0  # over all tries and pauses: a call ends within 30 s
    tries: int = 4
    body_bytes: int = 5_000_000


@dataclass(frozen=True, slots=True)
class RawResponse:
    """Status, the one header that is used, and the body (of errors: its beginning)."""

    status: int
    retry_after: str | None = None
    body: bytes = field(default=b"", repr=False)


class HttpAdapter:
    """A pool of connections, for all threads of one process. TLS is always verified."""

    def __init__(self, limits: Limits, connections: int, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._timeout = Timeout(limits.connect_seconds, limits.read_seconds)
        self._adapter = DeadlineAdapter(pool_maxsize=connections)
        # By service, with the path of its base URL.
        self._pools: dict[str, tuple[Any, str]] = {}
        self._headers = {
            "User-Agent": f"spotify_pipeline/{_version()}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        }

    def attempt(self, request: Request, seconds: float) -> RawResponse | Transient:
        """Sends once and reads the answer within `seconds`; failures are returned, not raised.

        Returned, so that no SpotifyError carries a library's exception as its context: those hold
        the request with its Authorization header.
        """
        deadline = Deadline(self._clock, self._clock() + seconds)
        try:
            with keeping(deadline):
                return self._exchange(request)
        except _FAILURES as failure:
            return SpotifyUnavailable(f"{request.endpoint}: {_in_words(failure, deadline)}")

    def close(self) -> None:
        self._pools.clear()
        self._adapter.close()

    def _exchange(self, request: Request) -> RawResponse | Transient:
        pool, path = self._pool_for(request.base)
        path += request.path
        if request.params:
            path += "?" + urlencode(request.params)
        headers = dict(self._headers)
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        body = None
        if request.form is not None:
            body = urlencode(request.form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        response = pool.urlopen(
            request.method,
            path,
            body,
            headers,
            retries=False,
            redirect=False,
            timeout=self._timeout,
            preload_content=False,
        )
        try:
            return self._read(request.endpoint, response)
        finally:
            # Of a body that was not read to its end the connection cannot be used again.
            response.close()
            response.release_conn()

    def _pool_for(self, base: BaseUrl) -> tuple[Any, str]:
        """The connections to a service, with proxies and REQUESTS_CA_BUNDLE of the environment."""
        pool = self._pools.get(base.text)
        if pool is None:
            root = requests.Request("GET", base.text).prepare()
            environment = requests.Session().merge_environment_settings(
                base.text, {}, True, True, None
            )
            verify = environment["verify"] or True
            # Plain http to loopback must not travel through a proxy that the environment names.
            proxies = {} if base.is_loopback else environment["proxies"]
            connections = self._adapter.get_connection_with_tls_context(root, verify, proxies)
            self._adapter.cert_verify(connections, base.text, verify, None)  # type: ignore[no-untyped-call]
            pool = self._pools[base.text] = connections, root.path_url.rstrip("/")
        return pool

    def _read(self, endpoint: str, response: BaseHTTPResponse) -> RawResponse | Transient:
        status = response.status
        retry_after = response.headers.get("Retry-After")
        if response.headers.get("Content-Encoding", "").strip().lower() not in _ENCODINGS:
            if status == 200:
                return BadResponse(f"{endpoint}: an encoding that was not asked for")
            return RawResponse(status, retry_after)
        cap = self._limits.body_bytes if status == 200 else _ERROR_BODY_BYTES
        body = bytearray()
        try:
            for chunk in response.stream(_CHUNK_BYTES, decode_content=True):
                body += chunk
                if len(body) > cap:
                    break
        except _FAILURES:
            # A 429 is heeded even if its body is cut; anything else is a try that failed.
            if status != 429:
                raise
        if status == 200 and len(body) > cap:
            return BadResponse(f"{endpoint}: an answer of more than {cap} bytes")
        return RawResponse(status, retry_after, bytes(body[:cap]))


def _in_words(failure: Exception, deadline: Deadline) -> str:
    if (
        isinstance(failure, (ConnectTimeoutError, ReadTimeoutError))
        or deadline.clock() >= deadline.at
    ):
        return "no answer in time"
    if isinstance(failure, SSLError):
        return "no trusted TLS connection"
    return "the connection failed"


def _version() -> str:
    try:
        return metadata.version("spotify_pipeline")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"


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
                accepted = isinstance(outcome, Response) and outcome.status == 200
                self._rate_limiter.answered(request.caller, accepted=accepted)
            if isinstance(outcome, Response):
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
