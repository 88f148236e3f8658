"""Faults below HTTP: connections that break, trickle, never end or send garbage.

They write to the raw connection, which server.RawAccess puts into the scope.
"""

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from spotify_pipeline.simulator.faults.base import Replaces
from spotify_pipeline.simulator.http.responses import Json

TRANSPORT = "simulator.transport"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
_CLOSE = b"Connection: close\r\n"
_MEGABYTE = 1 << 20


class WireResponse(Response):
    """Bytes on the raw connection, which is closed or reset afterwards."""

    def __init__(
        self,
        content: bytes,
        *,
        reset: bool = False,
        trickle: tuple[bytes, float, float] | None = None,
    ) -> None:
        super().__init__()
        self._content = content
        self._reset = reset
        self._trickle = trickle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Writes past uvicorn and waits for the end of the connection: uvicorn would send a 500."""
        transport: asyncio.Transport = scope[TRANSPORT]
        if self._content:
            transport.write(self._content)
        if self._trickle is not None:
            await _dribble(transport, *self._trickle)
        if self._reset:
            # With a linger of zero seconds the kernel sends RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            transport.abort()
        else:
            transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass


async def _dribble(transport: asyncio.Transport, text: bytes, pause: float, limit: float) -> None:
    """Writes `text` one byte per `pause` seconds, repeatedly, for at most `limit` seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    position = 0
    while not transport.is_closing() and loop.time() < until:
        transport.write(text[position % len(text) :][:1])
        position += 1
        await asyncio.sleep(pause)


def _whole(body: Json) -> bytes:
    return json.dumps(body).encode()


@dataclass(frozen=True)
class ConnectionReset(Replaces):
    """RST: before the first byte, or after `after_bytes` of the body."""

    after_bytes: int | None = None

    def response(self, body: Json) -> Response:
        if self.after_bytes is None:
            return WireResponse(b"", reset=True)
        whole = _whole(body)
        head = _HEAD + b"Content-Length: %d\r\n\r\n" % len(whole)
        return WireResponse(head + whole[: self.after_bytes], reset=True)


@dataclass(frozen=True)
class NoAnswer(Replaces):
    """The connection is closed without a response."""

    def response(self, body: Json) -> Response:
        return WireResponse(b"")


@dataclass(frozen=True)
class Truncated(Replaces):
    """A body that stops in the middle.

    `ended_by` close: no length is sent, so it arrives as 200 with broken JSON; length: shorter than
    its Content-Length; chunks: the last chunk is missing.
    """

    ended_by: Literal["close", "length", "chunks"] = "close"
    keep: float = 0.5

    def response(self, body: Json) -> Response:
        whole = _whole(body)
        part = whole[: int(len(whole) * self.keep)]
        if self.ended_by == "close":
            return WireResponse(_HEAD + _CLOSE + b"\r\n" + part)
        if self.ended_by == "length":
            return WireResponse(_HEAD + b"Content-Length: %d\r\n\r\n" % len(whole) + part)
        chunk = b"%x\r\n%s\r\n" % (len(part), part)
        return WireResponse(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)


@dataclass(frozen=True)
class SlowLoris(Replaces):
    """One byte every `pause_seconds`, for at most `seconds`: no read time-out notices.

    `part` is what arrives slowly: the header or the body.
    """

    pause_seconds: float = 0.2
    seconds: float = 600.0
    part: Literal["header", "body"] = "body"

    def response(self, body: Json) -> Response:
        if self.part == "header":
            endless = b"X-Still-There: yes\r\n"
            return WireResponse(_HEAD, trickle=(endless, self.pause_seconds, self.seconds))
        head = _HEAD + _CLOSE + b"\r\n{"
        return WireResponse(head, trickle=(b" ", self.pause_seconds, self.seconds))


@dataclass(frozen=True)
class HugeBody(Replaces):
    """`megabytes` of valid JSON, mostly blanks; `compressed`: 1 kB per megabyte on the network."""

    megabytes: int = 400
    compressed: bool = False

    def response(self, body: Json) -> Response:
        if self.compressed:
            # Gzip members can be concatenated, so a megabyte is compressed only once.
            blanks = gzip.compress(b" " * _MEGABYTE)
            content = gzip.compress(_whole(body)) + blanks * self.megabytes
            headers = {"Content-Encoding": "gzip"}
            return Response(content, 200, headers, media_type="application/json")
        return StreamingResponse(self._stream(_whole(body)), media_type="application/json")

    async def _stream(self, whole: bytes) -> AsyncIterator[bytes]:
        blanks = b" " * _MEGABYTE
        yield whole
        for _ in range(self.megabytes):
            yield blanks
