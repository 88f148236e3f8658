"""Every way in which a call to Spotify fails.

    SpotifyError                 code, what_happened
    ├── Transient                this user, this time: due again soon
    │   ├── SpotifyUnavailable   no answer, or 5xx
    │   │   └── Outage           no call was made: the circuit breaker is open
    │   └── BadResponse          an answer that is not understood
    ├── RateLimited              429, or the budget: all calls wait for retry_after_seconds
    ├── UserRefused              permanent for this user: no retry helps
    │   ├── Reconnect            the refresh token is dead
    │   ├── OtherAccount         the token is of another account than the user's
    │   ├── MissingScope         the listener did not grant a permission
    │   └── NotAllowlisted       the app may not read this account
    ├── AppBlocked               the app itself is refused: no user is to blame
    └── AccessTokenExpired       401: never leaves call_with_token and OAuthClient

They are built from codes, statuses and endpoint names, never from bodies, headers or URLs:
what stands in them ends up in logs, in Postgres and before listeners.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from spotify_pipeline.domain.outcome import OTHER_ACCOUNT, WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.quota import Priority


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """The base URL of a service, without a trailing slash: https, or http on loopback only."""

    text: str
    is_loopback: bool

    @classmethod
    def parse(cls, text: str) -> "BaseUrl":
        """The checked address; raises ValueError with one sentence that repeats no secret."""
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("The address of a Spotify service has a bad host or port.") from None
        if parts.username is not None or parts.password is not None:
            raise ValueError("The address of a Spotify service must not hold a name or password.")
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ValueError(
                "The address of a Spotify service must look like https://api.spotify.com."
            )
        is_loopback = _is_loopback(host)
        if parts.scheme == "http" and not is_loopback:
            raise ValueError(
                f"Refusing plain http to {host}: tokens are sent over https, "
                "or over http to 127.0.0.1 only."
            )
        where = f"[{host}]" if ":" in host else host
        where += "" if port is None else f":{port}"
        return cls(f"{parts.scheme}://{where}{parts.path.rstrip('/')}", is_loopback)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")


def is_token(text: object) -> bool:
    """Whether this can stand in an Authorization header: visible ASCII, so no CR LF injection."""
    return isinstance(text, str) and _VISIBLE_ASCII.fullmatch(text) is not None


def bearer(access_token: str) -> str:
    """The Authorization header's value; raises ValueError without repeating the token.

    Checked here because the HTTP library's own complaint would quote the header.
    """
    if not is_token(access_token):
        raise ValueError("The access token is not visible ASCII.")
    return f"Bearer {access_token}"


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `endpoint` is its name in errors; `priority` None: Spotify does not count it."""

    endpoint: str
    method: Literal["GET", "POST"]
    base: BaseUrl
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    priority: Priority | None = None

    @property
    def caller(self) -> int:
        """Distinguishes the calls of one token from those of others, in this process."""
        return hash((self.authorization, (self.form or {}).get("refresh_token")))


@dataclass(frozen=True, slots=True)
class Response:
    """A 200 with its JSON object, or a 4xx with `payload` if it was one.

    `text` is the start of a 4xx body: it is matched against known sentences and never passed on.
    """

    status: int
    payload: Mapping[str, object] | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)


LimitReason = Literal["RATE", "QUOTA"]
ReconnectCause = Literal["revoked", "expired", "invalid"]


class SpotifyError(Exception):
    """A call to Spotify failed; `code` is stored and shown, `what_happened` is one clause.

    `what_to_do` is for the user: by the code, unless this failure has its own.
    """

    def __init__(self, code: ErrorCode, what_happened: str, what_to_do: str | None = None) -> None:
        super().__init__(what_happened)
        self.code = code
        self.what_happened = what_happened
        self.what_to_do = what_to_do or WHAT_TO_DO[code]


class Transient(SpotifyError):
    """The same call may succeed later by itself."""


class SpotifyUnavailable(Transient):
    """No answer, a cut or slow one, or 5xx."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(ErrorCode.SPOTIFY_UNAVAILABLE, what_happened)


class Outage(SpotifyUnavailable):
    """No call was made: the outage circuit breaker is open; one call every few minutes probes."""


class BadResponse(Transient):
    """An answer came and is not understood: no JSON, a redirect, too large, an odd status."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(ErrorCode.BAD_RESPONSE, what_happened)


class RateLimited(SpotifyError):
    """Spotify asked for a pause that concerns every user of the developer account.

    `reason` is QUOTA for the daily quota (waits of 6 to 24 hours were seen), else RATE. Our own
    budget raises it before Spotify does, and says so in `what_happened`.
    """

    def __init__(
        self, retry_after_seconds: int, reason: LimitReason, what_happened: str | None = None
    ) -> None:
        code = ErrorCode.QUOTA_EXCEEDED if reason == "QUOTA" else ErrorCode.RATE_LIMITED
        asked = f"Spotify asked for a pause of {retry_after_seconds} s"
        super().__init__(code, what_happened or asked)
        self.retry_after_seconds = retry_after_seconds
        self.reason: LimitReason = reason


class UserRefused(SpotifyError):
    """A permanent error: the user or the operator has to act."""


class Reconnect(UserRefused):
    """invalid_grant: the refresh token was revoked, has expired or was never valid."""

    def __init__(self, cause: ReconnectCause) -> None:
        super().__init__(ErrorCode.RECONNECT, f"the refresh token is {cause}")
        self.cause: ReconnectCause = cause


class OtherAccount(UserRefused):
    """The token is honoured, and is another Spotify account's than the user's."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.RECONNECT, "the token is of another account", OTHER_ACCOUNT)


class MissingScope(UserRefused):
    """401 or 403: the access token lacks the scope that this endpoint needs."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(ErrorCode.MISSING_SCOPE, what_happened)


class NotAllowlisted(UserRefused):
    """403: Spotify does not let this app read this account."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(ErrorCode.NOT_ALLOWLISTED, what_happened)


class AppBlocked(SpotifyError):
    """The client id, its secret or its owner's subscription is refused."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(ErrorCode.APP_BLOCKED, what_happened)


class AccessTokenExpired(SpotifyError):
    """401: the access token has expired. `call_with_token` refreshes it once and calls again."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(ErrorCode.BAD_RESPONSE, what_happened)
