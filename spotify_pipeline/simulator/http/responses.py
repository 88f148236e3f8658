"""JSON and plain text over HTTP."""

import json
from collections.abc import Mapping

from starlette.responses import Response


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Compact JSON, everything outside ASCII escaped."""
    text = json.dumps(body, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json; charset=utf-8")


def error_response(body: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An error of Spotify's: JSON, or plain text where Spotify sends that."""
    if isinstance(body, str):
        return Response(body, status, headers, media_type="text/plain; charset=utf-8")
    return json_response(body, status, headers)
