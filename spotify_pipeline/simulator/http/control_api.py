"""The control API: POST /_sim/NAME calls that method of `control.Control`.

Arguments are a JSON object, the result is JSON. A wrong argument gets a 400 `{"error": sentence}`.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError, validate_call
from pydantic_core import to_json
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from spotify_pipeline.loopback import SameOriginOnly
from spotify_pipeline.simulator.control import METHODS, Control
from spotify_pipeline.simulator.http.responses import json_response
from spotify_pipeline.simulator.state import SimulatorState


def control_routes(state: SimulatorState) -> Mount:
    """All routes under `/_sim`. They return tokens, so web pages of other origins are refused."""
    control = Control(state)
    return Mount(
        "/_sim",
        routes=[
            Route(f"/{name}", _endpoint(getattr(control, name)), methods=["POST"])
            for name in METHODS
        ],
        middleware=[Middleware(SameOriginOnly)],
    )


def _endpoint(method: Callable[..., Any]) -> Callable[[Request], Awaitable[Response]]:
    checked = validate_call(method)

    async def endpoint(request: Request) -> Response:
        try:
            result = checked(**await request.json())
        except ValidationError as wrong:
            return json_response({"error": _sentence(wrong)}, 400)
        except KeyError as unknown:
            return json_response({"error": f"there is no {unknown}"}, 400)
        except (TypeError, ValueError, RecursionError) as wrong:
            return json_response({"error": str(wrong)}, 400)
        return Response(to_json(result), media_type="application/json")

    return endpoint


def _sentence(wrong: ValidationError) -> str:
    """Each wrong argument, what was given, and what may be."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc']))} = {error['input']!r}: {error['msg']}"
        for error in wrong.errors()
    )
