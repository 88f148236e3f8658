"""Whatever bytes come back, a call ends with an Answer or a SpotifyError."""

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spotify_pipeline.spotify.errors import SpotifyError
from spotify_pipeline.spotify.http import Limits, Transport
from spotify_pipeline.spotify.messages import BaseUrl, Request, Response
from spotify_pipeline_tests.spotify.server import raw

ONE_SHORT_TRY = Limits(0.3, 0.3, 0.3, 0.5, 1, 100_000)

SOUND = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"id": "xy"}',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"{}", mtime=0),
    b"HTTP/1.1 429 Slow Down\r\nRetry-After: 120\r\nContent-Length: 3\r\n\r\nToo",
    b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nSet-Cookie: a=b; expires=x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 403 No\r\n\r\nForbidden",
)
DIRT = st.sampled_from(
    [
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b"\x00",
            b"\xff",
            b"\x85",
            b":",
            b"-1",
            b"9" * 25,
            b"9" * 5000,
            b"0x1",
        ),
        *(
            b"chunked",
            b"gzip",
            b"Content-Length: ",
            b"Transfer-Encoding: chunked\r\n",
            b"Location: ",
        ),
        *(b"Content-Type: multipart/mixed; boundary=x\r\n", b"X" * 70_000, b"A: b\r\n" * 120),
        *(b"Retry-After: \xd9\xa3\r\n", b"HTTP/", b"Content-Encoding: "),
    ]
)


@st.composite
def damaged_answers(draw: st.DrawFn) -> bytes:
    """A sound answer with up to five stretches replaced by dirt or by any bytes."""
    data = draw(st.sampled_from(SOUND))
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(data)))
        dirt = draw(DIRT | st.binary(max_size=8))
        data = data[:start] + dirt + data[start + draw(st.integers(0, 8)) :]
    return data


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=damaged_answers())
def test_any_bytes_end_in_a_response_or_a_spotify_error(server, data):
    server.script(raw(data))
    transport = Transport(limits=ONE_SHORT_TRY)
    request = Request("profile", "GET", BaseUrl.parse(server.url), "/v1/me")
    outcome: Response | SpotifyError
    try:
        outcome = transport.send(request)
    except SpotifyError as error:
        outcome = error
    transport.close()
    assert isinstance(outcome, Response) or outcome.__context__ is None


@pytest.mark.parametrize("data", SOUND[:3], ids=["length", "chunked", "gzip"])
def test_the_unmutated_responses_are_valid(server, transport, request_to, data):
    server.script(raw(data))
    assert transport.send(request_to).status == 200
