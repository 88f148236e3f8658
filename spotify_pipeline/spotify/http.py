"""One attempt of a call: sends a Request, returns a RawResponse or a Transient failure.

Built on the connection pool of requests and not on its Session, because a Session
- reads the whole body of a redirect into memory even with allow_redirects=False,
- lets an entry in .netrc replace the Authorization header,
- keeps cookies, which would send one listener's with the next one's call,
- and is not promised to be safe for threads, while the pool is: one Wire serves all threads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import requests
from requests.exceptions import SSLError
from urllib3.exceptions import HTTPError

from spotify_pipeline.spotify.deadline_adapter import Deadline, DeadlineAdapter, keeping
from spotify_pipeline.spotify.errors import BadResponse, SpotifyUnavailable, Transient
from spotify_pipeline.spotify.messages import BaseUrl, Request

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
        self._adapter = DeadlineAdapter(pool_maxsize=connections, max_retries=0)
        # Read once per service: at every call it was a tenth of our part of the call.
        self._environments: dict[str, Mapping[str, Any]] = {}
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
        self._adapter.close()

    def _exchange(self, request: Request) -> RawResponse | Transient:
        url = request.base.text + request.path
        headers = dict(self._headers)
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        prepared = requests.Request(
            request.method, url, headers=headers, params=request.params, data=request.form
        ).prepare()
        environment = self._environment_for(request.base)
        response = self._adapter.send(
            prepared,
            stream=True,
            timeout=(self._limits.connect_seconds, self._limits.read_seconds),
            verify=environment["verify"] or True,
            # Plain http to loopback must not travel through a proxy that the environment names.
            proxies={} if request.base.is_loopback else environment["proxies"],
        )
        try:
            return self._read(request.endpoint, response)
        finally:
            response.close()

    def _environment_for(self, base: BaseUrl) -> Mapping[str, Any]:
        """Proxies and REQUESTS_CA_BUNDLE of the environment for a service."""
        if base.text not in self._environments:
            session = requests.Session()  # used for nothing else
            self._environments[base.text] = session.merge_environment_settings(
                base.text, {}, True, True, None
            )
        return self._environments[base.text]

    def _read(self, endpoint: str, response: requests.Response) -> RawResponse | Transient:
        status = response.status_code
        retry_after = response.headers.get("Retry-After")
        if response.headers.get("Content-Encoding", "").strip().lower() not in _ENCODINGS:
            if status == 200:
                return BadResponse(f"{endpoint}: an encoding that was not asked for")
            return RawResponse(status, retry_after)
        cap = self._limits.body_bytes if status == 200 else _ERROR_BODY_BYTES
        body = bytearray()
        try:
            for chunk in response.iter_content(_CHUNK_BYTES):
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
    if isinstance(failure, requests.Timeout) or deadline.clock() >= deadline.at:
        return "no answer in time"
    if isinstance(failure, SSLError):
        return "no trusted TLS connection"
    return "the connection failed"


def _version() -> str:
    try:
        return metadata.version("spotify_pipeline")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
