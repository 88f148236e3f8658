"""A scripted server, a second host beside it, and a transport with small limits."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from spotify_pipeline.spotify.http import Limits, Transport
from spotify_pipeline.spotify.messages import BaseUrl, Request
from spotify_pipeline_tests.spotify.server import ScriptedServer

# Few tries and small bodies; patient, so that a busy machine changes no result.
SMALL = Limits(tries=3, body_bytes=100_000)


@dataclass
class Naps:
    """A sleep that takes no time and remembers how long it was meant to be."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def elsewhere() -> Iterator[ScriptedServer]:
    """Another host: whatever arrives here should not have been sent."""
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def transport(naps: Naps) -> Iterator[Transport]:
    transport = Transport(limits=SMALL, sleep=naps, fraction=lambda: 0.5)
    yield transport
    transport.close()


@pytest.fixture
def request_to(server: ScriptedServer) -> Request:
    """A call of the Web API with a token, addressed to the server."""
    return Request(
        "profile",
        "GET",
        BaseUrl.parse(server.url),
        "/v1/me",
        authorization="Bearer canary-access-token",
        priority="plays",
    )
