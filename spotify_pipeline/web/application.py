"""The application and its server: routes, headers, and the limits on what a client may send."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote, urlsplit

import h11
import uvicorn
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from spotify_pipeline.web import account, dashboard, history, profile, signin, year
from spotify_pipeline.web.forms import session_of
from spotify_pipeline.web.site import Config, Site, message, site_of, static_file

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


MAX_BODY_BYTES = 1_000_000
MAX_PATH = 500
# A path without a route, in place of one that no handler should see.
NOWHERE = "/no/page"
# Called by machines, under whatever name they know this one by.
_FOR_MACHINES = ("/healthz", "/hooks/revalidate")
_HEADERS = {
    # Nothing of another origin, no code or style inside a page, no frame around it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Addresses hold codes and share links.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

log = logging.getLogger(__name__)


def make_application(config: Config) -> ASGIApp:
    """The page as an ASGI application."""
    application = Starlette(
        routes=[
            Route("/", dashboard.home),
            Route("/sync", dashboard.sync, methods=["POST"]),
            Route("/status", dashboard.status),
            Route("/sign-in", signin.start),
            Route("/callback", signin.callback),
            Route("/sign-out", signin.sign_out, methods=["POST"]),
            *account.ROUTES,
            *year.ROUTES,
            *history.ROUTES,
            Route("/me", profile.mine),
            Route("/shared/{token}", profile.shared),
            Route("/hooks/revalidate", profile.revalidate, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/static/{digest}/{name}", static),
            Route("/{name}", profile.public),
        ],
        exception_handlers={
            HTTPException: _refused,
            SQLAlchemyError: _no_database,
            ClientDisconnect: _gone,
            500: _failed,
        },
    )
    # Its redirects would name http and not https: Starlette does not know of the proxy in front.
    application.router.redirect_slashes = False
    application.state.site = Site(config)
    # Not as Starlette's middleware, which the handler of unexpected errors wraps.
    return Guard(application, config.url)


class Guard:
    """Puts the headers on every response, limits bodies, and serves pages under one name only."""

    def __init__(self, app: ASGIApp, url: str) -> None:
        self._app = app
        self._url = url
        self._host = urlsplit(url).netloc
        self._headers = dict(_HEADERS)
        if url.startswith("https:"):
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left = (
            history.MAX_UPLOAD_BYTES + MAX_BODY_BYTES
            if scope["path"] == history.ADDRESS
            else MAX_BODY_BYTES
        )

        async def limited() -> Message:
            nonlocal left
            received = await receive()
            left -= len(received.get("body", b""))
            if left < 0:
                raise HTTPException(413, "This is more than is taken here.")
            return received

        async def with_headers(sent: Message) -> None:
            if sent["type"] == "http.response.start":
                headers = MutableHeaders(scope=sent)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(sent)

        answer = self._elsewhere(scope) or self._app
        if "\0" in scope["path"] or len(scope["path"]) > MAX_PATH:
            scope = {**scope, "path": NOWHERE}
        await answer(scope, limited, with_headers)

    def _elsewhere(self, scope: Scope) -> Response | None:
        """Against DNS rebinding, and so that cookies and the callback have the same host."""
        path = scope["path"]
        if path in _FOR_MACHINES or Headers(scope=scope).getlist("host") == [self._host]:
            return None
        if scope["method"] not in ("GET", "HEAD") or not path.startswith("/"):
            return PlainTextResponse(f"This page is at {self._url}.\n", 421)
        query = scope["query_string"].decode("latin-1")
        return RedirectResponse(f"{self._url}{quote(path)}{'?' + query if query else ''}", 307)


def healthz(request: Request) -> Response:
    """200 while the database answers; else the handler of database errors answers 503."""
    with site_of(request).engine.connect() as conn:
        conn.execute(text("SELECT 1"))
    return PlainTextResponse("ok\n")


def static(request: Request) -> Response:
    """The style or the script; their addresses change with their content."""
    name = request.path_params["name"]
    if name not in ("page.js", "style.css"):
        raise HTTPException(404)
    content, media_type, address = static_file(name)
    if address != request.url.path:
        raise HTTPException(404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, media_type=media_type, headers=headers)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    session = None
    if request.cookies:
        with suppress(SQLAlchemyError):
            session = session_of(request)
    if error.status_code == 404:
        # The same for what does not exist and for what a visitor may not see.
        return message(
            "There is nothing here",
            "This page does not exist, or is private.",
            404,
            session=session,
        )
    response = message("That did not work", error.detail, error.status_code, session=session)
    response.headers.update(error.headers or {})
    return response


def _gone(request: Request, error: Exception) -> Response:
    # No client reads it. Without it every broken connection would be a traceback in the log.
    return PlainTextResponse("The request broke off.\n", 400)


def _no_database(request: Request, error: Exception) -> Response:
    # Its text may hold a statement, its parameters never.
    cause = getattr(error, "orig", None) if isinstance(error, DBAPIError) else None
    log.error("database: %s (SQLSTATE %s)", type(error).__name__, getattr(cause, "sqlstate", None))
    if request.url.path in _FOR_MACHINES:
        return PlainTextResponse("The database does not answer.\n", 503)
    return message(
        "The database does not answer", "Nothing was lost. Try again in a few minutes.", 503
    )


def _failed(request: Request, error: Exception) -> Response:
    return message(
        "Something failed on our side", "It was written down. Try again in a few minutes.", 500
    )
