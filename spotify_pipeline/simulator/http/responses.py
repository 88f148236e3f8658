"""HTTP responses of the simulator, and Spotify's errors as exceptions."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

Json = dict[str, Any]


class Refusal(Exception):
    """An error as Spotify sends it: HTTP status, and a JSON body or plain text."""

    def __init__(
        self, status: int, body: Json | str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})

    @classmethod
    def api(cls, status: int, message: str) -> "Refusal":
        """An error of the Web API."""
        return cls(status, error(status, message))

    @classmethod
    def accounts(cls, code: str, description: str) -> "Refusal":
        """An error of accounts.spotify.com: 400 with a flat body."""
        return cls(400, {"error": code, "error_description": description})


def error(status: int, message: str, **more: str) -> Json:
    """The JSON body of a Web API error."""
    return {"error": {"status": status, "message": message, **more}}


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Compact JSON, everything outside ASCII escaped."""
    text = json.dumps(body, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json; charset=utf-8")


def error_response(body: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An error response: JSON, or plain text where Spotify sends plain text."""
    if isinstance(body, str):
        return Response(body, status, headers, media_type="text/plain; charset=utf-8")
    return json_response(body, status, headers)
