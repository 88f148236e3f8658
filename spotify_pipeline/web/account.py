"""The settings: time zone, profile, share link, download, disconnect and forget."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.exc import DBAPIError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from spotify_pipeline import app
from spotify_pipeline.terminal import is_visible
from spotify_pipeline.web.forms import Sent, form, signed_in, text, to
from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import PRIVATE, Site, message, private_page, site_of

# Each holds 10,000 plays as text until its client has taken them.
MOST_DOWNLOADS = 4
DOWNLOAD_SECONDS = 10 * 60
SHARE_DAYS = (1, 7, 30, 365)
FORGET_WORDS = "forget me"

log = logging.getLogger(__name__)


@signed_in
def settings(request: Request, session: Session) -> Response:
    """The page."""
    said = request.query_params.get("saved", "")
    return _page(request, session, saved=said in ("zone", "profile", "link"))


def _page(
    request: Request,
    session: Session,
    *,
    saved: bool = False,
    complaint: str = "",
    status: int = 200,
) -> Response:
    site, chosen = site_of(request), session.settings
    link = None
    with site.engine.connect() as conn:
        zones = app.time_zones(conn)
        if chosen.share_expires_at is not None:
            token = _share_token(site, session.user_id, chosen.share_expires_at)
            # Not that of a link from before a change of the secret.
            if app.find_profile(conn, None, hashlib.sha256(token.encode()).digest()):
                link = f"{site.config.url}/shared/{token}"
    return private_page(
        "settings.html",
        session,
        status,
        zones=zones,
        link=link,
        share_days=SHARE_DAYS,
        saved=saved,
        complaint=complaint,
        forget_words=FORGET_WORDS,
        address=f"{site.config.url}/",
        keep_plays_days=site.config.keep_plays_days,
    )


@form
def set_zone(request: Request, session: Session, sent: Sent) -> Response:
    """Count days in another time zone."""
    try:
        with site_of(request).engine.begin() as conn:
            app.register_user(conn, session.user_id, text(sent, "timezone"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != "22023":
            raise
        # The database's sentence suggests the zone that was meant.
        said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or ""
        return _page(request, session, complaint=said, status=400)
    return to("/settings?saved=zone")


@form
def set_profile(request: Request, session: Session, sent: Sent) -> Response:
    """Set the displayed name, the name in the address, and who sees the profile."""
    site, name = site_of(request), text(sent, "name").lower()
    shown = text(sent, "display_name")
    if shown and not is_visible(shown):
        complaint = "This displayed name has nothing that can be seen: choose another."
        return _page(request, session, complaint=complaint, status=400)
    try:
        with site.engine.begin() as conn:
            if shown:
                app.register_user(conn, session.user_id, display_name=shown[:255])
            app.set_profile(conn, session.user_id, name or None, "public" in sent)
    except app.Refused as refused:
        return _page(request, session, complaint=refused.message, status=400)
    site.cache.drop_users([session.user_id])
    return to("/settings?saved=profile")


@form
def share(request: Request, session: Session, sent: Sent) -> Response:
    """Make a share link in place of the last, or revoke it."""
    site, days = site_of(request), text(sent, "days")
    digest = until = None
    if days in map(str, SHARE_DAYS):
        until = datetime.now(UTC) + timedelta(days=int(days))
        token = _share_token(site, session.user_id, until)
        digest = hashlib.sha256(token.encode()).digest()
    with site.engine.begin() as conn:
        app.share_profile(conn, session.user_id, digest, until)
    return to("/settings?saved=link")


@form
def disconnect(request: Request, session: Session, sent: Sent) -> Response:
    """Delete the token, keep the history, end every session."""
    site = site_of(request)
    with site.engine.begin() as conn:
        app.disconnect_user(conn, session.user_id)
    site.cache.drop_users([session.user_id])
    response = message(
        "Spotify is disconnected",
        "Nothing more is collected, and you are signed out everywhere. Your history is kept: sign "
        "in again to go on, or to delete it.",
        link=("/sign-in", "Sign in with Spotify"),
    )
    site.cookies.sign_out(response)
    return response


@form
def forget(request: Request, session: Session, sent: Sent) -> Response:
    """Delete every row of the user, after a typed confirmation."""
    site = site_of(request)
    if text(sent, "words").lower() != FORGET_WORDS:
        complaint = f'Nothing was deleted: type "{FORGET_WORDS}" to confirm.'
        return _page(request, session, complaint=complaint, status=400)
    with site.engine.begin() as conn:
        app.forget_user(conn, session.user_id)
    site.cache.drop_users([session.user_id])
    response = message(
        "You are forgotten",
        "Every play, list and number of yours was deleted, and so was the connection to Spotify. "
        "Backups of the owner keep them until they are replaced.",
    )
    site.cookies.sign_out(response)
    return response


@signed_in
def download(request: Request, session: Session) -> Response:
    """Everything that is stored about the user, as one JSON file."""
    site, user_id = site_of(request), session.user_id
    if user_id in site.downloading or len(site.downloading) >= MOST_DOWNLOADS:
        whose = "Another download of yours is" if user_id in site.downloading else "Others are"
        return message(
            "Not just now", f"{whose} going on. Try again in a few minutes.", 503, session=session
        )
    return Download(site, user_id)


class Download(StreamingResponse):
    """A part is read when the client has taken the one before, so a slow client is cut off."""

    def __init__(self, site: Site, user_id: str) -> None:
        self._site, self._user_id = site, user_id
        headers = {**PRIVATE, "Content-Disposition": 'attachment; filename="my-listening.json"'}
        super().__init__(_exported(site, user_id), media_type="application/json", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._site.downloading.add(self._user_id)
        try:
            async with asyncio.timeout(DOWNLOAD_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.warning("a download took too long")
        finally:
            self._site.downloading.discard(self._user_id)


def _exported(site: Site, user_id: str) -> Iterator[str]:
    """The document in parts: 10,000 plays at a time, no connection held between them."""
    yield f'{{"user_id": {_json(user_id)},\n"tables": {_tables(site, user_id)},\n"plays": ['
    after, separator = None, "\n"
    while True:
        part, after = _plays(site, user_id, after)
        if after is None:
            break
        yield separator + part
        separator = ",\n"
    yield "\n]}\n"


def _tables(site: Site, user_id: str) -> str:
    """The rows of all tables but the plays."""
    with site.engine.connect() as conn:
        rows = app.export_rows(conn, user_id)
    tables: dict[str, list[Any]] = {}
    for table, row in rows:
        tables.setdefault(table, []).append(row)
    return _json(tables)


def _plays(
    site: Site, user_id: str, after: tuple[datetime, str] | None
) -> tuple[str, tuple[datetime, str] | None]:
    """The next plays, and the last of them, after which to go on; None: there are none."""
    with site.engine.connect() as conn:
        plays = app.export_plays(conn, user_id, after)
    last = (plays[-1]["played_at"], plays[-1]["track_id"]) if plays else None
    return ",\n".join(map(_json, plays)), last


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=datetime.isoformat)


def _share_token(site: Site, user_id: str, until: datetime) -> str:
    """Derived, so that the settings can show the link again while the database has its digest."""
    return site.cookies.share_token(user_id, until.astimezone(UTC).isoformat())


ROUTES = [
    Route("/settings", settings),
    Route("/settings/zone", set_zone, methods=["POST"]),
    Route("/settings/profile", set_profile, methods=["POST"]),
    Route("/settings/share", share, methods=["POST"]),
    Route("/settings/download", download),
    Route("/settings/disconnect", disconnect, methods=["POST"]),
    Route("/settings/forget", forget, methods=["POST"]),
]
