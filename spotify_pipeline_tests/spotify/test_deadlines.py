"""A call ends in time and in little memory, whatever the other side does."""

import gzip
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import pytest

from spotify_pipeline.spotify import deadline_adapter
from spotify_pipeline.spotify.errors import BadResponse, RateLimited, SpotifyUnavailable
from spotify_pipeline.spotify.http import Limits, Transport
from spotify_pipeline.spotify.messages import BaseUrl, Request
from spotify_pipeline_tests.spotify.conftest import SMALL
from spotify_pipeline_tests.spotify.server import (
    ScriptedServer,
    answer,
    dripping,
    endless,
    raw,
    silence,
)

# The deadline is small, so that being slow is quick to test; the time-outs are too long to help.
IMPATIENT = replace(SMALL, connect_seconds=9, read_seconds=9, try_seconds=0.3, total_seconds=0.7)
SLACK = 4  # seconds that a busy machine may add; a time-out of 9 s still stands out

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

SLOW = {
    "no answer": silence(),
    "status line byte by byte": dripping(b"HTTP/1.1 200", b"O"),
    "one header after the other": dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", every=0.1),
    "an endless header": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "100 Continue for ever": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body byte by byte": dripping(HEAD + b"Content-Length: 90000\r\n\r\n", b" "),
    "close-delimited body": dripping(HEAD + b"\r\n{", b" "),
    "chunk by chunk": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "an endless chunk size": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "gzip that says nothing": dripping(
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff"
    ),
    "the body of an error": dripping(b"HTTP/1.1 403 Forbidden\r\n\r\n", b" "),
}


@pytest.mark.parametrize("step", SLOW.values(), ids=SLOW.keys())
def test_a_slow_server_costs_no_more_than_the_total_time(server, request_to, step):
    transport = Transport(limits=IMPATIENT, fraction=lambda: 0.2)
    server.script(step)
    started = time.monotonic()
    with pytest.raises((SpotifyUnavailable, BadResponse)):
        transport.send(request_to)
    assert time.monotonic() - started < IMPATIENT.total_seconds + SLACK


def test_a_429_whose_body_drips_is_heeded_in_time(server, request_to):
    server.script(dripping(b"HTTP/1.1 429 No\r\nRetry-After: 9\r\n\r\n", b" "))
    started = time.monotonic()
    with pytest.raises(RateLimited):
        Transport(limits=replace(IMPATIENT, try_seconds=1, total_seconds=3)).send(request_to)
    assert time.monotonic() - started < 3 + SLACK


def test_a_tls_handshake_that_is_never_answered_ends_in_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts and says nothing
        base = BaseUrl.parse(f"https://127.0.0.1:{listener.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(SpotifyUnavailable, match="no answer in time"):
            Transport(limits=IMPATIENT).send(Request("profile", "GET", base, "/v1/me"))
    assert time.monotonic() - started < IMPATIENT.total_seconds + SLACK


def test_a_proxy_that_drips_its_answer_to_connect_ends_in_time(server, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", server.url)
    server.script(dripping(b"HTTP/1.1 200 Connection established\r\nX: ", b"y"))
    started = time.monotonic()
    with pytest.raises(SpotifyUnavailable):
        Transport(limits=IMPATIENT).send(
            Request("profile", "GET", BaseUrl.parse("https://api.spotify.invalid"), "/v1/me")
        )
    assert time.monotonic() - started < IMPATIENT.total_seconds + SLACK
    assert {seen.method for seen in server.seen} <= {"CONNECT"}


def test_a_name_server_that_does_not_answer_ends_in_time(monkeypatch):
    released = threading.Event()

    def dead_name_server(*args, **kwargs):
        released.wait(30)
        raise OSError("timed out")

    monkeypatch.setattr(deadline_adapter.socket, "getaddrinfo", dead_name_server)
    started = time.monotonic()
    with pytest.raises(SpotifyUnavailable):
        Transport(limits=IMPATIENT).send(
            Request("profile", "GET", BaseUrl.parse("https://api.spotify.invalid"), "/v1/me")
        )
    elapsed = time.monotonic() - started
    released.set()
    assert elapsed < IMPATIENT.total_seconds + SLACK


def test_the_real_limits_promise_thirty_seconds():
    limits = Limits()
    assert limits.total_seconds <= 28
    assert limits.try_seconds < limits.total_seconds


BIG = {
    "content-length says little": raw(HEAD + b"Content-Length: 2\r\n\r\n" + b" " * 500_000),
    "content-length says much": endless(
        HEAD + b"Content-Length: 500000\r\n\r\n", b" " * 10_000, 50
    ),
    "close-delimited": endless(HEAD + b"\r\n", b" " * 10_000, 50),
    "chunked": endless(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"2710\r\n" + b" " * 10_000 + b"\r\n", 50
    ),
    "gzip bomb": answer(200, gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("step", BIG.values(), ids=BIG.keys())
def test_a_body_beyond_the_cap_is_a_bad_response(server, transport, request_to, step):
    server.script(step)
    with pytest.raises(BadResponse):
        transport.send(request_to)
    assert len(server.seen) == SMALL.tries


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd", "deflate", "x-bomb"])
def test_an_encoding_that_was_not_asked_for_is_refused_unread(
    server, transport, request_to, encoding
):
    server.script(answer(200, gzip.compress(b"{}"), {"Content-Encoding": encoding}))
    with pytest.raises(BadResponse, match="encoding"):
        transport.send(request_to)


# In its own process, so that only the client's memory is counted; traced, because ru_maxrss of a
# child begins at what its parent had.
MEASURE = """
    import sys, tracemalloc
    from spotify_pipeline.spotify.errors import SpotifyError
    from spotify_pipeline.spotify.messages import BaseUrl, Request
    from spotify_pipeline.spotify.http import Transport

    transport = Transport(sleep=lambda seconds: None)
    request = Request("profile", "GET", BaseUrl.parse(sys.argv[1]), "/v1/me")
    tracemalloc.start()
    try:
        transport.send(request)
    except SpotifyError as error:
        print(error.code, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize(
    "step",
    [
        endless(HEAD + b"\r\n", b" " * 1_000_000, 50),
        endless(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n2faf080\r\n", b" " * 1_000_000, 50
        ),  # one chunk of 50 MB
        answer(200, gzip.compress(b" " * 400_000_000, 1), {"Content-Encoding": "gzip"}),
        endless(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n", b" " * 1_000_000, 50),
        endless(b"HTTP/1.1 500 Oops\r\n\r\n", b" " * 1_000_000, 50),
    ],
    ids=["close-delimited 50 MB", "one chunk of 50 MB", "400 MB in gzip", "redirect", "error"],
)
def test_a_huge_body_costs_little_memory(server: ScriptedServer, step):
    server.script(step)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, peak_bytes = done.stdout.split()
    assert code in ("BAD_RESPONSE", "SPOTIFY_UNAVAILABLE")
    assert 10_000 < int(peak_bytes) < 12_000_000  # the cap is 5 MB, and a bytearray grows by copies
