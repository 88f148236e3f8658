"""Decorators of the handlers of signed-in users: pages, and forms with their CSRF token."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from math import ceil
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from spotify_pipeline.app import SyncStatus
from spotify_pipeline.terminal import count
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


TOASTS = {
    "RECONNECT": "Spotify no longer lets us in. Reconnect Spotify with the same account as before.",
    "NOT_ALLOWLISTED": "Your Spotify account is not enabled for this app yet. The operator knows.",
    "MISSING_SCOPE": ("A permission is missing. Reconnect Spotify and accept both permissions."),
    "APP_BLOCKED": "Spotify does not let our app in at the moment. We are on it.",
    "CLIENT_MISMATCH": (
        "Your connection belongs to an earlier version of this app. Reconnect Spotify."
    ),
    "RATE_LIMITED": "Spotify asked us to slow down. Try again later.",
    "QUOTA_EXCEEDED": "We have asked Spotify as often as we may today. Try again later.",
    "SPOTIFY_UNAVAILABLE": "Spotify did not answer. Try again in a few minutes.",
    "BAD_RESPONSE": "Spotify answered something strange. Try again in a few minutes.",
    "CRASHED": "The sync was interrupted. Try again.",
    "CANCELLED": "The sync was cancelled.",
    "FORGOTTEN": "This account was deleted.",
    "INTERNAL": "Something failed on our side. Try again in a few minutes.",
}
SYNCED = "Synced. Your numbers are up to date."


@dataclass(frozen=True, slots=True)
class Button:
    """The Sync button. `seconds`: until it works again; `kind`: success, error or "" (no toast)."""

    state: str
    label: str
    is_enabled: bool
    needs_reconnect: bool
    seconds: int
    kind: str
    toast: str


def button(status: SyncStatus, asked: int | None) -> Button:
    """The button for a state; `asked` is the request whose end the user waits for."""
    seconds = _seconds_until(status.next_allowed_at)
    needs_reconnect = status.connection in ("disconnected", "needs_reauth")
    label, kind, toast = "Sync now", "", ""
    if status.state in ("queued", "running"):
        label = "Syncing…"
    elif status.state == "blocked":
        label = "Waiting for Spotify…"
        toast = "Your sync is queued: no call to Spotify may be made for a while."
    elif needs_reconnect:
        label = "Reconnect Spotify"
    elif seconds:
        label = f"Sync again in {count(ceil(seconds / 60), 'minute')}"
    if status.state == "failed" and status.error_code:
        kind, toast = "error", TOASTS.get(status.error_code, TOASTS["INTERNAL"])
    # Not by the state, which is idle too where a later sync succeeded after a failed request.
    elif asked is not None and (asked, "succeeded") == (status.request_id, status.request_status):
        kind, toast = "success", SYNCED
    is_enabled = not (seconds or needs_reconnect) and status.state in ("never", "idle", "failed")
    return Button(status.state, label, is_enabled, needs_reconnect, seconds, kind, toast)


def _seconds_until(instant: datetime | None) -> int:
    if instant is None:
        return 0
    return max(0, ceil((instant - datetime.now(UTC)).total_seconds()))
