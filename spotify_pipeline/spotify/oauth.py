"""OAuth at accounts.spotify.com: the user's consent (a code, with PKCE and state), then tokens.

`Authorization` makes the address of Spotify's page and reads its answer, by oauthlib;
`OAuthClient` makes the calls: a code or a refresh token in, tokens out.
"""

import hmac
import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from oauthlib.oauth2 import AccessDeniedError, OAuth2Error, WebApplicationClient

from spotify_pipeline.domain.model import SCOPES
from spotify_pipeline.spotify.errors import (
    AppBlocked,
    BadResponse,
    Reconnect,
    ReconnectCause,
    SpotifyError,
)
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.messages import BaseUrl, Request, Response, is_token

# RFC 7636 allows 43 to 128 characters.
_VERIFIER_LENGTH = 96
# oauthlib accepts https only. Loopback needs no TLS: its traffic does not leave the machine.
_HTTPS = "https://accounts.spotify.com/authorize"


class NotGranted(Exception):
    """Spotify sent the browser back without a code. `denied`: the user refused."""

    def __init__(self, *, denied: bool) -> None:
        super().__init__("the user refused" if denied else "no code came")
        self.denied = denied


class Authorization:
    """One attempt to get the user's consent; accepts one callback. Its repr shows no secret.

    `address` is the page to open, `redirect_uri` where Spotify sends the browser afterwards.
    Raises ValueError if `accounts_url` is neither https nor loopback.
    """

    def __init__(self, accounts_url: str, client_id: str, redirect_uri: str) -> None:
        self.redirect_uri = redirect_uri
        self._state = secrets.token_urlsafe(32)
        # Without its types: the published ones lack PKCE.
        self._client: Any = WebApplicationClient(client_id)
        self.code_verifier: str = self._client.create_code_verifier(_VERIFIER_LENGTH)
        asked = self._client.prepare_request_uri(
            _HTTPS,
            redirect_uri=redirect_uri,
            scope=list(SCOPES),
            state=self._state,
            code_challenge=self._client.create_code_challenge(self.code_verifier, "S256"),
            code_challenge_method="S256",
            # The user sees which account it is, even after an earlier consent.
            show_dialog="true",
        )
        self.address = f"{BaseUrl.parse(accounts_url).text}/authorize?{urlsplit(asked).query}"

    def owns(self, query: str) -> bool:
        """Whether the query of a callback answers this very try: its one state is ours."""
        states = parse_qs(query, keep_blank_values=True, errors="replace").get("state", [])
        return len(states) == 1 and hmac.compare_digest(states[0].encode(), self._state.encode())

    def code_in(self, query: str) -> str:
        """The code to redeem. Raises NotGranted."""
        denied = False
        try:
            answer = self._client.parse_request_uri_response(f"{_HTTPS}?{query}", self._state)
            return str(answer["code"])
        except AccessDeniedError:
            denied = True
        except (OAuth2Error, ValueError):
            pass
        # Raised outside the except block: the library's errors hold what Spotify sent.
        raise NotGranted(denied=denied)


_ENDPOINT = "token"
_ONE_HOUR = 3600  # what Spotify has always sent as expires_in


@dataclass(frozen=True, slots=True)
class Grant:
    """The tokens that a code or a refresh returned. The repr shows no secret.

    `refresh_token` None: keep the old one (overwriting it locks the user out). Not None: it
    replaces the old one, which may already be dead, so store it before anything else.
    `scopes` None: not in the response.
    """

    access_token: str = field(repr=False)
    expires_in_seconds: int = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] | None = field(default=None, repr=False)


class OAuthClient:
    """Tokens for one client id: with Basic if there is a secret, else as PKCE clients do.

    Raises ValueError if `accounts_url` is neither https nor loopback. The rate limiter does not
    count refreshes, as the limits are those of the Web API; a block delays them all the same.
    """

    def __init__(
        self, accounts_url: str, client_id: str, client_secret: str | None, transport: Transport
    ) -> None:
        self._base = BaseUrl.parse(accounts_url)
        self._client_id = client_id
        self._basic = _basic(client_id, client_secret) if client_secret else None
        self._transport = transport

    def refresh(self, refresh_token: str) -> Grant:
        """A fresh access token.

        Raises Reconnect (this user), AppBlocked (the configuration), RateLimited,
        SpotifyUnavailable or BadResponse.
        """
        return self._ask({"grant_type": "refresh_token", "refresh_token": refresh_token})

    def redeem(self, code: str, redirect_uri: str, code_verifier: str) -> Grant:
        """The first tokens of a connection, for the code of an authorization with PKCE.

        Raises as `refresh`; Reconnect: the code, its verifier or the redirect address is not taken.
        """
        return self._ask(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": redirect_uri,
                "code_verifier": code_verifier,
            }
        )

    def _ask(self, form: dict[str, str]) -> Grant:
        if self._basic is None:
            form["client_id"] = self._client_id
        answer = self._transport.send(
            Request(
                _ENDPOINT, "POST", self._base, "/api/token", authorization=self._basic, form=form
            )
        )
        if answer.status != 200 or answer.payload is None:
            raise self._transport.report(_refusal(answer))
        return _grant(answer.payload)


def _basic(client_id: str, client_secret: str) -> str:
    return "Basic " + b64encode(f"{client_id}:{client_secret}".encode()).decode("ascii")


def _grant(payload: Mapping[str, object]) -> Grant:
    """Only a missing access token makes an answer useless.

    Any lesser field may be odd: dropping the answer would drop a new refresh token with it.
    """
    access_token = payload.get("access_token")
    if not isinstance(access_token, str) or not is_token(access_token):
        raise BadResponse(f"{_ENDPOINT}: no access token in the answer")
    expires_in = payload.get("expires_in")
    refresh_token = payload.get("refresh_token")
    scope = payload.get("scope")
    return Grant(
        access_token,
        expires_in if type(expires_in) is int and 0 < expires_in <= 86_400 else _ONE_HOUR,
        refresh_token if isinstance(refresh_token, str) and refresh_token else None,
        tuple(scope.split()) if isinstance(scope, str) else None,
    )


def _refusal(answer: Response) -> SpotifyError:
    """The meaning of an OAuth error (RFC 6749, 5.2): status 400, or 401 for the client."""
    error = (answer.payload or {}).get("error")
    if answer.status in (400, 401):
        if error == "invalid_grant":
            return Reconnect(_cause(answer))
        if error in ("invalid_client", "unauthorized_client"):
            return AppBlocked(f"{_ENDPOINT}: Spotify does not accept the client id or its secret")
    return BadResponse(f"{_ENDPOINT}: status {answer.status}")


def _cause(answer: Response) -> ReconnectCause:
    description = str((answer.payload or {}).get("error_description", "")).lower()
    if "revoked" in description:
        return "revoked"
    return "expired" if "expired" in description else "invalid"
