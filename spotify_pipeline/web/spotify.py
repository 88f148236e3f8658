"""The two calls to Spotify at a sign-in: the tokens for a code, and whose they are.

No database connection is held meanwhile, and no error repeats what Spotify sent.
"""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from oauthlib.oauth2 import AccessDeniedError, OAuth2Error, WebApplicationClient
from requests.auth import HTTPBasicAuth

from spotify_pipeline.domain.model import SCOPES, Profile
from spotify_pipeline.domain.parsing import BadPayload, parse_profile
from spotify_pipeline.web.site import Config

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
