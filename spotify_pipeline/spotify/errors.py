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

from typing import Literal

from spotify_pipeline.domain.error_codes import OTHER_ACCOUNT, WHAT_TO_DO, ErrorCode

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
