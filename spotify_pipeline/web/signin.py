"""Sign in with Spotify, and sign out.

A sign-in makes two calls to Spotify: the tokens for a code, and whose they are. No database
connection is held meanwhile, and no error repeats what Spotify sent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from oauthlib.oauth2 import AccessDeniedError, OAuth2Error, WebApplicationClient
from requests.auth import HTTPBasicAuth
from sqlalchemy.exc import DataError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from spotify_pipeline import app
from spotify_pipeline.domain.model import SCOPES, Profile
from spotify_pipeline.domain.parsing import BadPayload, parse_profile
from spotify_pipeline.domain.sealing import seal
from spotify_pipeline.web.forms import Sent, form, session_of, to
from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import PRIVATE, Config, Site, message, site_of

# Connecting, and between two bytes.
_SECONDS = (5, 15)
_MAX_BYTES = 1_000_000
# oauthlib requires https; on loopback, where the simulator listens, plain http is as good.
_HTTPS = "https://accounts.spotify.com/authorize"


class SignInRefused(Exception):
    """Nothing was stored. `reason` is a key of signin.REFUSALS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Account:
    """Who agreed, and the refresh token that came of it."""

    profile: Profile
    refresh_token: str = field(repr=False)
    scopes: tuple[str, ...]


def redirect_uri(config: Config) -> str:
    """Where Spotify sends the browser back to; to be registered to the letter."""
    return f"{config.url}/callback"


def authorize_address(config: Config, state: str, code_verifier: str) -> str:
    """The address of Spotify's page on which the user agrees."""
    client: Any = WebApplicationClient(config.client_id or "")
    asked = client.prepare_request_uri(
        _HTTPS,
        redirect_uri=redirect_uri(config),
        scope=list(SCOPES),
        state=state,
        code_challenge=client.create_code_challenge(code_verifier, "S256"),
        code_challenge_method="S256",
        # The user sees which account it is, even if they agreed before.
        show_dialog="true",
    )
    return f"{config.accounts_url}/authorize?{urlsplit(asked).query}"


def account_of(config: Config, query: str, state: str, code_verifier: str) -> Account:
    """Redeem the code in the query of a callback. Raises SignInRefused."""
    client: Any = WebApplicationClient(config.client_id or "")
    code = _code(client, query, state)
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri(config),
        "code_verifier": code_verifier,
    }
    auth = None
    if config.client_secret:
        auth = HTTPBasicAuth(config.client_id or "", config.client_secret)
    else:
        form["client_id"] = config.client_id or ""
    status, grant = _call("POST", f"{config.accounts_url}/api/token", data=form, auth=auth)
    if status != 200:
        raise SignInRefused("expired" if grant.get("error") == "invalid_grant" else "spotify")
    access_token, refresh_token = grant.get("access_token"), grant.get("refresh_token")
    if not _is_token(access_token) or not _is_token(refresh_token):
        raise SignInRefused("spotify")
    scopes = tuple(str(grant.get("scope", " ".join(SCOPES))).split())
    if not set(SCOPES) <= set(scopes):
        raise SignInRefused("scope")
    headers = {"Authorization": f"Bearer {access_token}"}
    status, me = _call("GET", f"{config.api_url}/v1/me", headers=headers)
    if status == 403:
        raise SignInRefused("allowlist")
    if status != 200:
        raise SignInRefused("spotify")
    try:
        return Account(parse_profile(me), str(refresh_token), scopes)
    except BadPayload:
        raise SignInRefused("spotify") from None


def _code(client: Any, query: str, state: str) -> str:
    reason = "spotify"
    try:
        return str(client.parse_request_uri_response(f"{_HTTPS}?{query}", state)["code"])
    except AccessDeniedError:
        reason = "denied"
    except (OAuth2Error, ValueError):
        pass
    # Raised outside the except block: the library's errors hold what Spotify sent.
    raise SignInRefused(reason)


def _call(method: str, url: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of a response; an empty object if it is none."""
    answer: tuple[int, bytes] | None = None
    try:
        with requests.request(
            method, url, timeout=_SECONDS, allow_redirects=False, stream=True, **options
        ) as response:
            answer = response.status_code, response.raw.read(_MAX_BYTES, decode_content=True)
    except (requests.RequestException, OSError):
        pass
    if answer is None:
        raise SignInRefused("spotify")
    try:
        content = json.loads(answer[1])
    except (ValueError, RecursionError):
        content = {}
    return answer[0], content if isinstance(content, dict) else {}


def _is_token(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isprintable() and " " not in text


# Reason: status, title, what to do.
REFUSALS: Mapping[str, tuple[int, str, str]] = {
    "denied": (
        403,
        "You did not agree",
        "Without your permission on Spotify's page nothing is collected, and nothing was stored. "
        "If that was a slip, sign in again and agree.",
    ),
    "state": (
        403,
        "This sign-in is not yours, or too old",
        "It began in another browser, or more than ten minutes ago. Nothing was stored: sign in "
        "again in this browser.",
    ),
    "expired": (
        403,
        "Spotify did not take the answer",
        "An answer of Spotify is good once and for a short time. Sign in again.",
    ),
    "scope": (
        403,
        "A permission is missing",
        "Both permissions are needed: your recent plays, and your top artists and tracks. Sign in "
        "again and accept both.",
    ),
    "allowlist": (
        403,
        "Your Spotify account is not enabled yet",
        "The owner of this page first has to add your account to the app in the Spotify developer "
        "dashboard. Ask the owner, then sign in again.",
    ),
    "invited": (
        403,
        "This page is for invited accounts",
        "Your Spotify account is not among them, and nothing was stored. Ask the owner of this "
        "page to add it, then sign in again.",
    ),
    "another": (
        403,
        "That is another Spotify account",
        "You are signed in here as another user, and two users' listening must not be mixed. Log "
        "in at Spotify with the account you had before, or sign out here first, in the settings.",
    ),
    "row": (
        403,
        "Your name is in use here",
        "A user with the name of your Spotify account exists, and it is not known that this is "
        "you. If it is, wait for the first sync and sign in again; otherwise ask the owner.",
    ),
    "odd": (
        403,
        "Your account cannot be taken here",
        "Its Spotify id has characters, or a length, that no user of this page may have. Nothing "
        "was stored.",
    ),
    "often": (
        429,
        "Too many sign-ins",
        "There were too many from your network, or in all, in the last ten minutes. Nothing was "
        "stored. Wait ten minutes, then sign in again.",
    ),
    "owner": (
        503,
        "This page is not set up yet",
        "The owner has to set SPOTIFY_CLIENT_ID and to start the pipeline once, so that its public "
        "key is known. Then sign in again.",
    ),
    "spotify": (
        502,
        "Spotify did not answer",
        "Nothing was stored. Try again in a few minutes.",
    ),
}


def start(request: Request) -> Response:
    """Send the browser to Spotify's page."""
    site = site_of(request)
    if not site.config.client_id:
        return refusal(request, "owner")
    browser = site.cookies.browser(request)
    state = site.cookies.new_state(browser)
    address = authorize_address(site.config, state, site.cookies.code_verifier(state))
    response = RedirectResponse(address, 303, headers=PRIVATE)
    site.cookies.remember_browser(response, browser)
    return response


def callback(request: Request) -> Response:
    """Spotify sent the browser back: store the connection and start a session, or say why not."""
    site, states = site_of(request), request.query_params.getlist("state")
    try:
        if len(states) != 1 or not site.cookies.owns_state(request, states[0]):
            # Signed in by another tab, or the callback is loaded again: nothing is left to do.
            if session_of(request):
                return to("/")
            raise SignInRefused("state")
        if "code" in request.query_params and (
            seconds := site.attempts.wait(_client(request, site))
        ):
            response = refusal(request, "often")
            response.headers["Retry-After"] = str(seconds)
            return response
        verifier = site.cookies.code_verifier(states[0])
        # No connection of the pool is held while Spotify is asked.
        account = account_of(site.config, request.url.query, states[0], verifier)
        return _welcome(request, site, account)
    except SignInRefused as refused:
        return refusal(request, refused.reason)


def _client(request: Request, site: Site) -> str:
    """The address of the browser; on https that which the proxy in front has seen and appended."""
    forwarded = request.headers.getlist("x-forwarded-for") if site.config.is_https else []
    if forwarded:
        return forwarded[-1].rpartition(",")[2].strip()
    return request.client.host if request.client else ""


def refusal(request: Request, reason: str) -> Response:
    """The page of a refusal."""
    status, title, sentence = REFUSALS[reason]
    link = (
        ("/sign-in", "Sign in with Spotify") if reason != "another" else ("/settings", "Settings")
    )
    return message(title, sentence, status, session=session_of(request), link=link)


def _welcome(request: Request, site: Site, account: Account) -> Response:
    profile = account.profile
    if site.config.accounts and not site.config.accounts.intersection(profile.ids):
        raise SignInRefused("invited")
    with site.engine.connect() as conn:
        session, key = site.cookies.session(request, conn), app.sealing_key(conn)
    if key is None:
        raise SignInRefused("owner")
    user_id = _user_of(site, account, session)
    with site.engine.begin() as conn:
        app.connect_user(
            conn,
            user_id,
            client_id=site.config.client_id or "",
            sealed_refresh_token=seal(key[1], user_id, account.refresh_token),
            key_id=key[0],
            scopes=account.scopes,
            authorized_at=datetime.now(UTC),
        )
    with site.engine.connect() as conn:
        settings = app.user_settings(conn, user_id)
    if settings is None:  # forgotten at this moment
        raise SignInRefused("expired")
    response = to("/")
    site.cookies.sign_in(response, user_id, settings)
    return response


def _user_of(site: Site, account: Account, session: Session | None) -> str:
    profile = account.profile
    try:
        with site.engine.begin() as conn:
            user_id = app.sign_in_user(
                conn, profile.account, profile.spotify_user_id, _shown_name(profile.display_name)
            )
            # Raised inside the transaction: a user who was made just now is not kept.
            if session is not None and session.user_id != user_id:
                raise SignInRefused("another")
    except app.Refused as refused:
        raise SignInRefused("row") from refused
    except DataError as odd:
        raise SignInRefused("odd") from odd
    return user_id


def _shown_name(name: str | None) -> str | None:
    """As much of a name as the pipeline stores."""
    return name.replace("\0", "")[:255] if name else None


@form
def sign_out(request: Request, session: Session, sent: Sent) -> Response:
    """End the session in this browser, or with `everywhere` in all."""
    site = site_of(request)
    if "everywhere" in sent:
        with site.engine.begin() as conn:
            app.end_sessions(conn, session.user_id)
    response = to("/")
    site.cookies.sign_out(response)
    return response
