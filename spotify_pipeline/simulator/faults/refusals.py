"""Error responses of Spotify's services or of the proxies before them.

The texts are those that Spotify sends, word for word.
"""

import datetime as dt
from base64 import b64decode
from dataclasses import dataclass, field
from email.utils import format_datetime
from typing import ClassVar, Literal

from starlette.responses import Response

from spotify_pipeline.simulator.faults.base import API, TOKEN, Fault, Replaces
from spotify_pipeline.simulator.http.responses import Json, error, error_response


@dataclass(frozen=True)
class Latency(Fault):
    """The response comes `seconds` later; everything else still happens."""

    seconds: float = 1.0


@dataclass(frozen=True)
class RateLimited(Replaces):
    """429: too many calls. `retry_after` in seconds, or without the header (None).

    `as_date`: the header is an HTTP date; `plain`: the body is plain text.
    """

    endpoints: ClassVar[tuple[str, ...]] = API
    retry_after: int | None = 5
    as_date: bool = False
    plain: bool = False

    def response(self, body: Json) -> Response:
        headers = {}
        if self.retry_after is not None:
            moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.retry_after)
            date = format_datetime(moment, usegmt=True)
            headers["Retry-After"] = date if self.as_date else str(self.retry_after)
        text = "Too many requests" if self.plain else error(429, "API rate limit exceeded")
        return error_response(text, 429, headers)


@dataclass(frozen=True)
class QuotaExceeded(Replaces):
    """429 of the developer app's quota, with hours in Retry-After; 48,925 s was seen in reality."""

    endpoints: ClassVar[tuple[str, ...]] = API
    retry_after: int | None = 48_925

    def response(self, body: Json) -> Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        text = error(429, "Too many requests", reason="QUOTA_EXCEEDED")
        return error_response(text, 429, headers)


@dataclass(frozen=True)
class AccessTokenExpired(Replaces):
    """401, whatever the token."""

    endpoints: ClassVar[tuple[str, ...]] = API

    def response(self, body: Json) -> Response:
        return error_response(error(401, "The access token expired"), 401)


@dataclass(frozen=True)
class InvalidGrant(Replaces):
    """400 at the token endpoint. For all users at once: a Spotify outage rejects valid tokens."""

    endpoints: ClassVar[tuple[str, ...]] = (TOKEN,)
    description: str = "Refresh token revoked"

    def response(self, body: Json) -> Response:
        flat = {"error": "invalid_grant", "error_description": self.description}
        return error_response(flat, 400)


@dataclass(frozen=True)
class InvalidClient(Replaces):
    """400 at the token endpoint: the app's client id or secret is wrong."""

    endpoints: ClassVar[tuple[str, ...]] = (TOKEN,)

    def response(self, body: Json) -> Response:
        flat = {"error": "invalid_client", "error_description": "Invalid client"}
        return error_response(flat, 400)


_FORBIDDEN: dict[str, Json | str] = {
    "scope": error(403, "Insufficient client scope"),
    "not_allowlisted": "User not registered in the Developer Dashboard",
    "not_premium": (
        "Your application is blocked from accessing the Web API since you do not have a Spotify "
        "Premium subscription. Upgrade to Spotify Premium to access the Web API and unlock "
        "additional features for your app."
    ),
    "other": error(403, "Forbidden"),
}


@dataclass(frozen=True)
class Forbidden(Replaces):
    """403: missing scope, user not on the allow-list, or app owner without Premium."""

    endpoints: ClassVar[tuple[str, ...]] = API
    reason: Literal["scope", "not_allowlisted", "not_premium", "other"] = "scope"

    def response(self, body: Json) -> Response:
        return error_response(_FORBIDDEN[self.reason], 403)


@dataclass(frozen=True)
class ServerError(Replaces):
    """5xx with JSON, HTML or an empty body."""

    status: int = 502
    form: Literal["json", "html", "empty"] = "json"
    retry_after: int | None = None

    def response(self, body: Json) -> Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.form == "json":
            return error_response(error(self.status, "Bad gateway."), self.status, headers)
        html = f"<html><head><title>{self.status}</title></head><body>upstream error</body></html>"
        text = html if self.form == "html" else ""
        return Response(text, self.status, headers, media_type="text/html")


@dataclass(frozen=True)
class Echo(Replaces):
    """Echoes the request, as a proxy in debug mode does: secrets come back in the body."""

    status: int = 500

    def response(self, body: Json) -> Response:
        """`body`: the Authorization header and the form of the request."""
        return error_response(error(self.status, f"What was sent: {body}"), self.status)


@dataclass(frozen=True)
class Body(Replaces):
    """Any body: `text`, or bytes in base64."""

    text: str = ""
    base64: str | None = None
    status: int = 200
    content_type: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)

    def response(self, body: Json) -> Response:
        content = self.text.encode() if self.base64 is None else b64decode(self.base64)
        return Response(content, self.status, self.headers | {"Content-Type": self.content_type})
