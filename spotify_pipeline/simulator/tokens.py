"""Access and refresh tokens of the simulator.

Refresh tokens derive from the seed, so a restarted simulator accepts those the pipeline has stored.
Access tokens are valid for an hour of real time.
"""

import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from typing import Literal

ACCESS_SECONDS = 3600.0
# A restarted simulator accepts tokens that had been rotated at most this often.
_GENERATIONS_KNOWN = 20


class Tokens:
    """All tokens issued, and their owners."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.client_id = self._derive("client_id").hex()[:32]
        self.client_secret = self._derive("client_secret").hex()[:32]
        self._generations: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._revoked: set[str] = set()
        self._access: dict[str, tuple[str, float]] = {}

    def connect(self, user_id: str) -> str:
        """Returns the refresh token of a new or a known user."""
        for generation in range(_GENERATIONS_KNOWN):
            self._owners[self._refresh_token(user_id, generation)] = user_id
        token = self._refresh_token(user_id, self._generations.setdefault(user_id, 0))
        self._revoked.discard(token)
        return token

    def rotate(self, user_id: str) -> str:
        """Revokes the user's refresh token and issues the next one."""
        self.revoke(user_id)
        self._generations[user_id] += 1
        token = self._refresh_token(user_id, self._generations[user_id])
        self._owners[token] = user_id
        return token

    def revoke(self, user_id: str) -> None:
        """Revokes the user's refresh token, as when the listener removes the app."""
        self._revoked.add(self._refresh_token(user_id, self._generations[user_id]))

    def owner_of_refresh(self, token: str) -> str | Literal[False] | None:
        """The owner of a refresh token; False if it is revoked, None if unknown."""
        return False if token in self._revoked else self._owners.get(token)

    def issue_access(self, user_id: str) -> str:
        """Issues an access token."""
        token = "BQ" + secrets.token_urlsafe(120)
        self._access[token] = (user_id, time.monotonic() + ACCESS_SECONDS)
        return token

    def owner_of_access(self, token: str) -> str | Literal[False] | None:
        """The owner of an access token; False if it expired, None if unknown."""
        if token not in self._access:
            return None
        user_id, expires = self._access[token]
        return user_id if time.monotonic() < expires else False

    def expire_access(self, user_id: str | None = None) -> int:
        """Expires the access tokens of one user, or of all. Returns their number."""
        owners = ((token, owner) for token, (owner, _) in self._access.items())
        tokens = [token for token, owner in owners if user_id in (None, owner)]
        for token in tokens:
            self._access[token] = (self._access[token][0], 0.0)
        return len(tokens)

    def issued(self) -> list[str]:
        """Every refresh and access token issued so far."""
        refresh = [
            self._refresh_token(user_id, generation)
            for user_id, newest in self._generations.items()
            for generation in range(newest + 1)
        ]
        return [*refresh, *self._access]

    def _refresh_token(self, user_id: str, generation: int) -> str:
        secret = self._derive(f"refresh/{generation}/{user_id}") * 3
        return "AQ" + urlsafe_b64encode(secret).decode().rstrip("=")

    def _derive(self, what: str) -> bytes:
        return hmac.digest(f"simulator/{self._seed}".encode(), what.encode(), "sha256")
