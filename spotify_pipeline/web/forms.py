"""Decorators of the handlers of signed-in users: pages, and forms with their CSRF token."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import PRIVATE, site_of

FORM_TYPE = "application/x-www-form-urlencoded"
MAX_FIELDS = 20

# The fields of a form.
Sent = Mapping[str, str]
Page = Callable[[Request, Session], Response]
Handler = Callable[[Request, Session, Sent], Response]


def to(address: str) -> RedirectResponse:
    """Go on with GET at an address of ours."""
    return RedirectResponse(address, 303, headers=PRIVATE)


def session_of(request: Request) -> Session | None:
    """The session of the request; None: it has none, or it was ended."""
    site = site_of(request)
    with site.engine.connect() as conn:
        return site.cookies.session(request, conn)


def signed_in(page: Page) -> Callable[[Request], Response]:
    """A page of the signed-in user; others are sent to the start page."""

    @wraps(page)
    def handle(request: Request) -> Response:
        session = session_of(request)
        return page(request, session) if session else to("/")

    return handle


def form(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A form of the signed-in user. 403 without the session's CSRF token; no session: to "/"."""

    @wraps(handler)
    async def handle(request: Request) -> Response:
        session = await run_in_threadpool(session_of, request)
        if session is None:
            return to("/")
        sent = await _read(request)
        check_csrf(session, sent)
        return await run_in_threadpool(handler, request, session, sent)

    return handle


def check_csrf(session: Session, sent: Sent) -> None:
    """Raises HTTPException, 403, for a form without the session's token."""
    if not hmac.compare_digest(text(sent, "csrf").encode(), session.csrf.encode()):
        raise HTTPException(403, "This form is not of your session. Go back and try again.")


async def _read(request: Request) -> Sent:
    """The fields of a form, in UTF-8, as browsers send those of our pages.

    Not by Starlette, which decodes with whatever charset the client names: some take a minute.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise HTTPException(415, "Only the forms of this page are taken.")
    body = await request.body()
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(400, "This is not a form of this page.") from None
    if any("\0" in part for field in fields for part in field):
        raise HTTPException(400, "This is not a form of this page.")
    return dict(fields)


def text(sent: Sent, name: str) -> str:
    """A text of the form, without spaces around it; "" if it was not sent."""
    return sent.get(name, "").strip()
