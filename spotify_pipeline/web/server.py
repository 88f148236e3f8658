"""Serves the page over HTTP, with limits on what a client may send before its request is known."""

import asyncio
import logging
from collections.abc import Callable

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from spotify_pipeline.web.application import make_application
from spotify_pipeline.web.site import Config

# A client that takes longer to send the headers of a request is cut off.
HEADERS_SECONDS = 10
MAX_HEADERS_BYTES = 32_000


class Protocol(H11Protocol):
    """uvicorn's, which waits for the end of a request's headers for ever."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._await_headers()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        if self._headers_due is None:
            self._headers_due = self.loop.call_later(HEADERS_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None


def serve(config: Config, host: str, port: int, announce: Callable[[], object]) -> None:
    """Serve until SIGINT or SIGTERM. Writes no access log: addresses hold codes and share links."""

    class Server(uvicorn.Server):
        async def startup(self, *arguments: object, **options: object) -> None:
            await super().startup(*arguments, **options)  # type: ignore[arg-type]
            if self.started:
                announce()

    logging.basicConfig(level=logging.WARNING)
    Server(server_config(make_application(config), host, port)).run()


def server_config(application: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves this application."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        # Of httptools a request's headers may be of any length.
        http=Protocol,
        h11_max_incomplete_event_size=MAX_HEADERS_BYTES,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
