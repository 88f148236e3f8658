"""Loops that make the calls of a sync of all users and discard the responses (lower bounds)."""

import http.client
import threading
import time
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from json import loads
from urllib.parse import urlencode, urlsplit

from spotify_pipeline.domain.model import TIME_RANGES
from spotify_pipeline.simulator.control import ListenerInfo, Simulator

TOP_LIMIT = 20
PATHS = (
    "/v1/me/player/recently-played?limit=50",
    *(
        f"/v1/me/top/{kind}?{urlencode({'time_range': time_range, 'limit': TOP_LIMIT})}"
        for kind in ("artists", "tracks")
        for time_range in TIME_RANGES
    ),
)
# One token refresh and seven calls.
CALLS_PER_USER = 1 + len(PATHS)


class Bare:
    """One keep-alive connection per thread; only the access token is parsed."""

    def __init__(self, simulator: Simulator) -> None:
        self._where = urlsplit(simulator.url).netloc
        client = f"{simulator.client_id}:{simulator.client_secret}"
        self._basic = "Basic " + b64encode(client.encode()).decode()
        self._mine = threading.local()

    def fetch(self, listener: ListenerInfo) -> None:
        """Makes all calls of one user, in order."""
        form = {"grant_type": "refresh_token", "refresh_token": listener.refresh_token}
        granted = self._ask("POST", "/api/token", self._basic, urlencode(form))
        bearer = f"Bearer {loads(granted)['access_token']}"
        for path in PATHS:
            self._ask("GET", path, bearer)

    def _ask(self, method: str, path: str, authorization: str, form: str | None = None) -> bytes:
        headers = {"Authorization": authorization}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = self._connection()
        connection.request(method, path, form, headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: status {response.status}")
        return body

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._mine, "connection"):
            self._mine.connection = http.client.HTTPConnection(self._where)
        connection: http.client.HTTPConnection = self._mine.connection
        return connection


def side_by_side(simulator: Simulator, listeners: Sequence[ListenerInfo], threads: int) -> None:
    """The lower bound: nothing that makes these calls with so many threads is faster."""
    bare = Bare(simulator)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(bare.fetch, listeners))


def one_by_one(simulator: Simulator, listeners: Sequence[ListenerInfo], pause: float) -> None:
    """The typical polling loop: a user, a pause, the next user."""
    bare = Bare(simulator)
    for listener in listeners:
        bare.fetch(listener)
        time.sleep(pause)
