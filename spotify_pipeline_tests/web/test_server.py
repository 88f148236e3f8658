"""What a client may send before its request is known, against a real server on loopback."""

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from spotify_pipeline.web import application
from spotify_pipeline.web.application import server_config

WAIT_SECONDS = 30


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server that waits half a second for headers, and says "served"."""
    monkeypatch.setattr(application, "HEADERS_SECONDS", 0.5)
    serving = uvicorn.Server(server_config(PlainTextResponse("served"), "127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: serving.run([listening]), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        serving.should_exit = True
        thread.join(WAIT_SECONDS)


def answers(port: int, *parts: bytes) -> bytes:
    """What the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as client:
        received = b""
        try:
            for part in parts:
                client.sendall(part)
            while data := client.recv(65_536):
                received += data
        except ConnectionError:
            # It has closed before it had read everything.
            pass
    return received


WHOLE = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ([], 0),
        ([b"GET / HTTP/1.1\r\nHost: h"], 0),
        ([WHOLE, b"GET / HT"], 1),
        ([WHOLE + WHOLE + b"GET / HT"], 2),
    ],
    ids=["nothing", "a header without an end", "another request", "requests at once"],
)
def test_a_client_that_does_not_end_its_headers_is_cut_off(
    port: int, sent: list[bytes], received: int
) -> None:
    assert answers(port, *sent).count(b"served") == received


def test_headers_without_end_are_refused(port: int) -> None:
    endless = [b"GET / HTTP/1.1\r\nX: ", *[b"a" * 10_000] * 100]
    assert b"served" not in answers(port, *endless)
    assert b"served" in answers(port, WHOLE.replace(b"here", b"here\r\nConnection: close"))
