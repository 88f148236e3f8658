"""The OAuth server accounts.spotify.com: authorization codes, access and refresh tokens.

Authorization needs no password: the listener is chosen by `user_id`, or by a click on a page.
"""

import base64
import binascii
import hashlib
import html
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlencode, urlsplit

from spotify_pipeline.domain.model import SCOPES
from spotify_pipeline.simulator.accounts import ACCESS_SECONDS, Account
from spotify_pipeline.simulator.http.responses import Json, Refusal
from spotify_pipeline.simulator.state import SimulatorState

_LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class _Grant:
    """What an authorization code grants; valid once."""

    user_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str | None


class AuthorizationServer:
    """Issues authorization codes, and tokens for them."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state
        self._grants: dict[str, _Grant] = {}

    def authorize(self, query: Mapping[str, str]) -> str | None:
        """The redirect address after the listener agreed (or, with `deny`, refused).

        None: no listener is chosen yet. Raises Refusal, in plain text, for an unsafe redirect
        address.
        """
        redirect_uri = query.get("redirect_uri", "")
        if query.get("client_id") != self._state.tokens.client_id:
            raise Refusal(400, "INVALID_CLIENT: Invalid client")
        if not _is_safe(redirect_uri):
            raise Refusal(400, "INVALID_CLIENT: Insecure redirect URI")
        registered = self._state.redirect_uris
        if registered is not None and redirect_uri not in registered:
            raise Refusal(400, "INVALID_CLIENT: Invalid redirect URI")
        if query.get("response_type") != "code":
            raise Refusal(400, "response_type must be code")
        if query.get("code_challenge_method", "S256") != "S256":
            raise Refusal(400, "code_challenge_method must be S256")
        if "deny" in query:
            return _with_query(redirect_uri, query, error="access_denied")
        if query.get("user_id") not in self._state.accounts:
            return None
        asked = query.get("scope", "").split()
        code = secrets.token_urlsafe(60)
        self._grants[code] = _Grant(
            query["user_id"],
            redirect_uri,
            tuple(scope for scope in SCOPES if scope in asked),
            query.get("code_challenge"),
        )
        return _with_query(redirect_uri, query, code=code)

    def page(self, query: Mapping[str, str]) -> str:
        """The page on which the listener is chosen."""
        links = [
            (account.display_name or account.user_id, {**query, "user_id": account.user_id})
            for account in self._state.accounts.values()
        ]
        links.append(("Nobody: refuse", {**query, "deny": "1"}))
        lines = (
            f'<li><a href="?{html.escape(urlencode(target))}">{html.escape(name)}</a></li>'
            for name, target in links
        )
        title = "A local Spotify: who are you?"
        return f"<!doctype html><title>{title}</title><h1>{title}</h1><ul>{''.join(lines)}</ul>"

    def identify(self, authorization: str | None, form: Mapping[str, str]) -> Account:
        """The account for which the form of /api/token requests a token."""
        self._check_client(authorization, form)
        if form.get("grant_type") == "authorization_code":
            return self._owner_of_code(form)
        if form.get("grant_type") == "refresh_token":
            return self._owner_of_refresh(form.get("refresh_token"))
        raise Refusal.accounts(
            "unsupported_grant_type", "grant_type parameter is missing or invalid"
        )

    def answer(self, account: Account, grant_type: str | None) -> Json:
        """Issues an access token. A refresh returns no refresh token: the old one stays valid."""
        answer: Json = {
            "access_token": self._state.tokens.issue_access(account.user_id),
            "token_type": "Bearer",
            "scope": " ".join(account.scopes),
            "expires_in": int(ACCESS_SECONDS),
        }
        if grant_type == "authorization_code":
            answer["refresh_token"] = account.refresh_token
        return answer

    def _check_client(self, authorization: str | None, form: Mapping[str, str]) -> None:
        """Checks Basic authentication, or PKCE's bare client_id in the form."""
        tokens = self._state.tokens
        client_id, secret = form.get("client_id"), form.get("client_secret")
        if authorization is not None:
            client_id, secret = _basic(authorization)
        needs_secret = authorization is not None or secret is not None
        if client_id != tokens.client_id or (needs_secret and secret != tokens.client_secret):
            raise Refusal.accounts("invalid_client", "Invalid client")

    def _owner_of_code(self, form: Mapping[str, str]) -> Account:
        grant = self._grants.pop(form.get("code", ""), None)
        if grant is None:
            raise Refusal.accounts("invalid_grant", "Invalid authorization code")
        if form.get("redirect_uri") != grant.redirect_uri:
            raise Refusal.accounts("invalid_grant", "Invalid redirect URI")
        if grant.challenge is not None:
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != grant.challenge:
                raise Refusal.accounts("invalid_grant", "code_verifier was incorrect")
        account = self._state.accounts[grant.user_id]
        account.scopes = grant.scopes
        if self._state.tokens.owner_of_refresh(account.refresh_token) is False:
            self._state.rotate_refresh_token(account)
        return account

    def _owner_of_refresh(self, token: str | None) -> Account:
        if not token:
            raise Refusal.accounts("invalid_request", "refresh_token must be supplied")
        owner = self._state.tokens.owner_of_refresh(token)
        if owner is False:
            raise Refusal.accounts("invalid_grant", "Refresh token revoked")
        account = self._state.accounts.get(owner or "")
        if account is None:
            raise Refusal.accounts("invalid_grant", "Invalid refresh token")
        return account


def _is_safe(redirect_uri: str) -> bool:
    """Allows HTTPS, or HTTP to a loopback address; `localhost` is refused since 2025."""
    parts = urlsplit(redirect_uri)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _with_query(redirect_uri: str, query: Mapping[str, str], **more: str) -> str:
    state = {"state": query["state"]} if "state" in query else {}
    return f"{redirect_uri}?{urlencode(more | state)}"


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    client_id, _, secret = text.partition(":") if scheme.lower() == "basic" else ("", "", "")
    return unquote(client_id), unquote(secret)
