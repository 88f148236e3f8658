"""JSON over HTTP."""

import json
from collections.abc import Mapping

from starlette.responses import Response


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Compact JSON, everything outside ASCII escaped; a text goes out as plain text."""
    if isinstance(body, str):
        return Response(body, status, headers, media_type="text/plain; charset=utf-8")
    text = json.dumps(body, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json; charset=utf-8")
