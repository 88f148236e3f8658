"""Dagster's webserver behind a guard: `python -m` this module, with its options.

Dagster's own accepts every Host and Origin, form posts, and mutations by GET, so any web page that
is open in a browser on this machine could launch runs or end the code server (CSRF, DNS rebinding).
"""

from typing import Any
from urllib.parse import parse_qs

from dagster_webserver import cli
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from spotify_pipeline.loopback import SameOriginOnly
from spotify_pipeline.redaction import install
from spotify_pipeline.settings import settings

JSON_TYPES = ("application/json", "application/graphql")


class GraphQLByPost:
    """ASGI middleware: GraphQL is executed for a JSON POST only, which no foreign form can send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/graphql"):
            headers = dict(scope["headers"])
            kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if "query" in query or (scope["method"] == "POST" and kind.lower() not in JSON_TYPES):
                response = PlainTextResponse("Refused: send GraphQL as a POST of JSON.\n", 405)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def main() -> None:
    """Run `dagster-webserver` with the guard around its application."""
    install()
    create = cli.create_app_from_workspace_process_context  # type: ignore[attr-defined]

    def create_guarded(*args: Any, **kwargs: Any) -> ASGIApp:
        hosts = (settings().ui_hosts or "").split(",")
        return SameOriginOnly(GraphQLByPost(create(*args, **kwargs)), hosts)

    # Patched, because the command line takes no middleware and builds the application only here.
    cli.create_app_from_workspace_process_context = create_guarded  # type: ignore[assignment,attr-defined]
    cli.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
