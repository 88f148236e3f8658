"""What is tried again, how often, and what a 429 does."""

import gzip
import socket
import struct
import threading
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.spotify.errors import BadResponse, RateLimited, SpotifyUnavailable
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.messages import BaseUrl, Request
from spotify_pipeline_tests.spotify import bodies
from spotify_pipeline_tests.spotify.conftest import SMALL
from spotify_pipeline_tests.spotify.server import answer, raw, reset, silence

OK = answer(200, {"id": "listener"})
CUT_CLOSE_DELIMITED = raw(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"id": "lis')
CUT_CONTENT_LENGTH = raw(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id": "lis')
CUT_CHUNKED = raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"id": "lis')
NOT_HTTP = raw(b"SSH-2.0-OpenSSH_9.2\r\n")

FAULTS = {
    "500": answer(500, "<html>oops</html>"),
    "502 with JSON": answer(502, bodies.BAD_GATEWAY),
    "503 with nothing": answer(503),
    "reset": reset(),
    "closed without an answer": raw(),
    "cut, close-delimited": CUT_CLOSE_DELIMITED,
    "cut, content-length": CUT_CONTENT_LENGTH,
    "cut, chunked": CUT_CHUNKED,
    "not HTTP": NOT_HTTP,
    "not JSON": answer(200, "<html>captive portal</html>"),
    "empty": answer(200, b""),
    "no content": raw(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_one_fault_is_survived_by_one_retry(server, transport, request_to, naps, fault):
    server.script(fault, OK)
    assert transport.send(request_to).payload == {"id": "listener"}
    assert len(server.seen) == 2
    assert naps.seconds == [0.25]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_lasting_fault_ends_after_few_tries_with_growing_pauses(server, naps, request_to, fault):
    transport = Transport(limits=SMALL, sleep=naps, fraction=lambda: 0.5)
    server.script(fault)
    with pytest.raises((SpotifyUnavailable, BadResponse)) as caught:
        transport.send(request_to)
    assert caught.value.code in (ErrorCode.SPOTIFY_UNAVAILABLE, ErrorCode.BAD_RESPONSE)
    assert len(server.seen) == 3
    assert naps.seconds == [0.25, 0.5]


def test_a_silent_connection_times_out_and_is_retried(server, naps, request_to):
    transport = Transport(limits=replace(SMALL, read_seconds=0.3, tries=9), sleep=naps)
    server.script(silence(), OK)
    assert transport.send(request_to).payload == {"id": "listener"}
    assert len(server.seen) >= 2


def test_a_refused_connection_is_spotify_unavailable(server, transport, request_to, naps):
    server.close()
    with pytest.raises(SpotifyUnavailable, match="profile: the connection failed"):
        transport.send(request_to)
    assert len(naps.seconds) == 2


def test_a_connection_reset_before_the_request_is_read_is_spotify_unavailable(transport, naps):
    listener = socket.create_server(("127.0.0.1", 0))

    def reset_all():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # Closing now sends RST: urllib3 loses its socket between the request and the answer.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    threading.Thread(target=reset_all, daemon=True).start()
    base = BaseUrl(f"http://127.0.0.1:{listener.getsockname()[1]}", is_loopback=True)
    # Whether the request was sent by then is up to the kernel: so, several calls.
    for _ in range(10):
        with pytest.raises(SpotifyUnavailable):
            transport.send(Request("profile", "GET", base, "/me"))
    # Shut down, not only closed: the thread is in accept.
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert len(naps.seconds) == 20


@pytest.mark.parametrize("body", ["[]", "null", "1", '"text"', "NaN", '{"a": NaN}', "{}{}", "{"])
def test_only_a_json_object_is_an_answer(server, transport, request_to, body):
    server.script(answer(200, body))
    with pytest.raises(BadResponse, match="no JSON object"):
        transport.send(request_to)


def test_json_nested_without_end_is_a_bad_response(server, transport, request_to):
    server.script(answer(200, "[" * 90_000))
    with pytest.raises(BadResponse):
        transport.send(request_to)


def test_a_body_that_is_not_utf8_is_a_bad_response(server, transport, request_to):
    server.script(answer(200, b'{"name": "\xff\xfe"}'))
    with pytest.raises(BadResponse):
        transport.send(request_to)


def test_gzip_is_asked_for_and_understood(server, transport, request_to):
    server.script(answer(200, gzip.compress(b'{"id": "x"}'), {"Content-Encoding": "gzip"}))
    assert transport.send(request_to).payload == {"id": "x"}
    assert server.seen[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_returned_and_not_tried_again(server, transport, request_to, status, naps):
    server.script(answer(status, bodies.FORBIDDEN))
    refused = transport.send(request_to)
    assert (refused.status, refused.payload) == (status, bodies.FORBIDDEN)
    assert len(server.seen) == 1
    assert naps.seconds == []


def test_a_refusal_that_is_cut_off_is_asked_again(server, transport, request_to):
    cut = raw(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99\r\n\r\nInsuff")
    server.script(cut, answer(403, bodies.SCOPE))
    assert transport.send(request_to).payload == bodies.SCOPE


def test_a_429_that_is_cut_off_is_heeded(server, transport, request_to):
    server.script(
        raw(b"HTTP/1.1 429 Slow Down\r\nRetry-After: 77\r\nContent-Length: 99\r\n\r\nToo")
    )
    with pytest.raises(RateLimited) as caught:
        transport.send(request_to)
    assert caught.value.retry_after_seconds == 77
    assert len(server.seen) == 1


# --- 429 ---


class WaitingGate:
    """A rate limiter that promises to wait out pauses, and records the reports."""

    def __init__(self) -> None:
        self.acquired: list[str] = []
        self.reported: list[tuple[int, str]] = []

    def acquire(self, priority: str) -> None:
        self.acquired.append(priority)

    def blocked(self, seconds: int, reason: str) -> bool:
        self.reported.append((seconds, reason))
        return True

    def answered(self, caller, *, accepted):
        pass

    def unanswered(self, caller):
        return True


@pytest.mark.parametrize(
    ("body", "header", "wait", "reason", "code"),
    [
        (bodies.RATE_LIMIT, "7", 7, "RATE", ErrorCode.RATE_LIMITED),
        (bodies.RATE_LIMIT_TEXT, "7", 7, "RATE", ErrorCode.RATE_LIMITED),
        (bodies.RATE_LIMIT, None, 30, "RATE", ErrorCode.RATE_LIMITED),
        (bodies.QUOTA, "48925", 48925, "QUOTA", ErrorCode.QUOTA_EXCEEDED),
        (bodies.QUOTA, "86400", 86400, "QUOTA", ErrorCode.QUOTA_EXCEEDED),
    ],
)
def test_a_429_without_a_budget_ends_the_call_at_once_and_sleeps_never(
    server, transport, request_to, naps, body, header, wait, reason, code
):
    server.script(answer(429, body, {"Retry-After": header} if header else {}))
    with pytest.raises(RateLimited) as caught:
        transport.send(request_to)
    limit = caught.value
    assert (limit.retry_after_seconds, limit.reason, limit.code) == (wait, reason, code)
    assert len(server.seen) == 1
    assert naps.seconds == []


def test_retry_after_may_be_an_http_date(server, naps, request_to):
    now = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
    transport = Transport(limits=SMALL, sleep=naps, now=lambda: now)
    date = format_datetime(now.replace(minute=2), usegmt=True)
    server.script(answer(429, bodies.RATE_LIMIT, {"Retry-After": date}))
    with pytest.raises(RateLimited) as caught:
        transport.send(request_to)
    assert caught.value.retry_after_seconds == 120


def test_a_rate_limiter_that_waits_gives_a_short_429_one_more_try(server, naps, request_to):
    rate_limiter = WaitingGate()
    transport = Transport(rate_limiter=rate_limiter, limits=SMALL, sleep=naps)
    server.script(answer(429, bodies.RATE_LIMIT, {"Retry-After": "60"}), OK)
    assert transport.send(request_to).status == 200
    assert rate_limiter.reported == [(60, "RATE")]
    assert rate_limiter.acquired == ["plays", "plays"]
    assert naps.seconds == []


def test_a_second_429_after_the_pause_ends_the_call(server, naps, request_to):
    rate_limiter = WaitingGate()
    transport = Transport(rate_limiter=rate_limiter, limits=SMALL, sleep=naps)
    server.script(answer(429, bodies.RATE_LIMIT, {"Retry-After": "1"}))
    with pytest.raises(RateLimited):
        transport.send(request_to)
    assert len(server.seen) == 2
    assert rate_limiter.reported == [(1, "RATE"), (1, "RATE")]


@pytest.mark.parametrize("wait", ["61", "86400"])
def test_a_long_429_ends_the_call_whatever_the_rate_limiter_returns(server, naps, request_to, wait):
    rate_limiter = WaitingGate()
    transport = Transport(rate_limiter=rate_limiter, limits=SMALL, sleep=naps)
    server.script(answer(429, bodies.QUOTA, {"Retry-After": wait}))
    with pytest.raises(RateLimited):
        transport.send(request_to)
    assert rate_limiter.reported == [(int(wait), "QUOTA")]
    assert (len(server.seen), naps.seconds) == (1, [])


def test_a_429_in_a_storm_of_faults_does_not_stretch_the_number_of_tries(server, naps, request_to):
    rate_limiter = WaitingGate()
    transport = Transport(rate_limiter=rate_limiter, limits=SMALL, sleep=naps)
    busy = answer(503)
    server.script(busy, busy, answer(429, bodies.RATE_LIMIT, {"Retry-After": "1"}))
    with pytest.raises(RateLimited):
        transport.send(request_to)
    assert len(server.seen) == SMALL.tries


def test_an_error_of_the_rate_limiter_prevents_the_call(server, naps, request_to):
    class ClosedGate(WaitingGate):
        def acquire(self, priority: str) -> None:
            raise RateLimited(3600, "QUOTA")

    transport = Transport(rate_limiter=ClosedGate(), limits=SMALL, sleep=naps)
    server.script(OK)
    with pytest.raises(RateLimited):
        transport.send(request_to)
    assert server.seen == []
