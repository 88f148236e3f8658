"""Decorators of the handlers of signed-in users: pages, and forms with their CSRF token."""

import hmac
from collections.abc import Awaitable, Callable
from functools import wraps

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import site_of
from spotify_pipeline.web.views import PRIVATE

Page = Callable[[Request, Session], Response]
Handler = Callable[[Request, Session, FormData], Response]


def to(address: str) -> RedirectResponse:
    """Go on with GET at an address of ours."""
    return RedirectResponse(address, 303, headers=PRIVATE)


def _session(request: Request) -> Session | None:
    site = site_of(request)
    with site.engine.connect() as conn:
        return site.cookies.session(request, conn)


def signed_in(page: Page) -> Callable[[Request], Response]:
    """A page of the signed-in user; others are sent to the start page."""

    @wraps(page)
    def handle(request: Request) -> Response:
        session = _session(request)
        return page(request, session) if session else to("/")

    return handle


def form(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A form of the signed-in user. 403 without the session's CSRF token; no session: to "/"."""

    @wraps(handler)
    async def handle(request: Request) -> Response:
        sent = await request.form(max_files=0, max_fields=20)
        session = await run_in_threadpool(_session, request)
        if session is None:
            return to("/")
        if not hmac.compare_digest(text(sent, "csrf").encode(), session.csrf.encode()):
            raise HTTPException(403, "This form is not of your session. Go back and try again.")
        return await run_in_threadpool(handler, request, session, sent)

    return handle


def text(sent: FormData, name: str) -> str:
    """A text of the form, without spaces around it; "" if it was not sent."""
    value = sent.get(name)
    return value.strip() if isinstance(value, str) else ""
