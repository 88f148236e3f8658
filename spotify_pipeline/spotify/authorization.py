"""The user's consent: OAuth's authorization code with PKCE and state, by oauthlib.

It makes the address of Spotify's page and reads the answer; OAuthClient alone makes calls.
"""

import hmac
import secrets
from typing import Any
from urllib.parse import parse_qs, urlsplit

from oauthlib.oauth2 import AccessDeniedError, OAuth2Error, WebApplicationClient

from spotify_pipeline.domain.model import SCOPES
from spotify_pipeline.spotify.messages import BaseUrl

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
