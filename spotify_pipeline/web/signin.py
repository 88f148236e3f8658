"""Sign in with Spotify, and sign out."""

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy.exc import DataError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from spotify_pipeline import app
from spotify_pipeline.domain.sealing import seal
from spotify_pipeline.web.forms import Sent, form, session_of, to
from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import Site, site_of
from spotify_pipeline.web.spotify import Account, SignInRefused, account_of, authorize_address
from spotify_pipeline.web.views import PRIVATE, message

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
