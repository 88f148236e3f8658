"""Refuses what a web page of another origin makes a browser send to a server without a login.

A server on loopback is out of reach of other machines, but every page that is open in a browser
here can send it requests: forms, images, WebSockets, and after DNS rebinding whatever it likes.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

NAMES = frozenset({"127.0.0.1", "::1", "localhost"})
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# The content types that a form or a fetch can send without a CORS preflight.
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")


class SameOriginOnly:
    """ASGI middleware for HTTP and WebSocket: 403 for a foreign Host, Origin or page.

    `hosts` are names besides the loopback ones under which a proxy serves the application.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = None if scope["type"] == "lifespan" else self._refusal(scope)
        if reason is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # uvicorn answers 403 to the handshake.
            await send({"type": "websocket.close", "code": 1008})
        else:
            answer = PlainTextResponse(f"Refused: {reason}\n", 403)
            await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        # Against DNS rebinding: the page's own name, resolved to our address, stands here.
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(f"//{hosts[0]}") not in NAMES | self._hosts:
            return "the Host header is none of this server's names."
        for origin in headers.getlist("origin"):
            # A proxy may have put our address in the Host header, never in the Origin.
            ours = origin in (f"http://{hosts[0]}", f"https://{hosts[0]}")
            if not ours and _name(origin) not in self._hosts:
                return "the request comes from a page of another origin."
        method = scope.get("method", "GET")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (
            # A link to one of our pages does nothing; a frame of one could be clicked on unseen.
            method == "GET" and headers.get("sec-fetch-dest") == "document"
        ):
            return "the request comes from a page of another origin."
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method not in _SAFE_METHODS and kind in _FORM_TYPES:
            return "forms are not taken: send JSON."
        return None


def _name(url: str) -> str | None:
    """The host of an origin in lower case; None if it has none, or more than scheme and address.

    Neither header ever has a user or a path, and parsers disagree about `a@b` and `a/b`.
    """
    try:
        parts = urlsplit(url)
        # Raises for a port that is none.
        _ = parts.port
    except ValueError:
        return None
    # Of an IPv6 address nothing but a port follows.
    _, bracket, rest = parts.netloc.rpartition("]")
    is_odd = "@" in parts.netloc or (bracket and rest[:1] not in ("", ":"))
    return None if is_odd or any(parts[2:]) else parts.hostname
