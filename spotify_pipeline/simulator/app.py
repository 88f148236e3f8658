"""The HTTP of the simulator: Spotify's accounts service and Web API on one port.

The control interface under `/_sim/` is in control_api.
"""

from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spotify_pipeline.simulator import answers
from spotify_pipeline.simulator.answers import Refusal
from spotify_pipeline.simulator.control_api import control_routes
from spotify_pipeline.simulator.listeners import Play
from spotify_pipeline.simulator.responses import json_response
from spotify_pipeline.simulator.shapes import Json
from spotify_pipeline.simulator.state import Account, World


class Spotify:
    """The endpoints of a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> list[Route]:
        """Every path of Spotify's that the pipeline calls."""
        return [
            Route("/api/token", self.token, methods=["POST"]),
            Route("/v1/me", self.me),
            Route("/v1/me/player/recently-played", self.recently_played),
            Route("/v1/me/top/artists", self.top_artists),
            Route("/v1/me/top/tracks", self.top_tracks),
        ]

    async def token(self, request: Request) -> Response:
        """Refreshes an access token."""
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        authorization = request.headers.get("authorization")

        def identify() -> Account:
            return answers.owner_of_refresh(self.world, authorization, form)

        return self._answer(
            "token", identify, lambda account: (answers.token_answer(self.world, account), [])
        )

    async def me(self, request: Request) -> Response:
        """Who a token belongs to."""
        return self._api(request, "me", lambda account, url: (answers.me(self.world, account), []))

    async def recently_played(self, request: Request) -> Response:
        """The last plays."""
        query = dict(request.query_params)
        return self._api(
            request,
            "recently_played",
            lambda account, url: answers.recently_played(self.world, account, query, url),
        )

    async def top_artists(self, request: Request) -> Response:
        """A page of top artists."""
        query = dict(request.query_params)
        return self._api(
            request,
            "top_artists",
            lambda account, url: (answers.top(self.world, account, "artists", query, url), []),
        )

    async def top_tracks(self, request: Request) -> Response:
        """A page of top tracks."""
        query = dict(request.query_params)
        return self._api(
            request,
            "top_tracks",
            lambda account, url: (answers.top(self.world, account, "tracks", query, url), []),
        )

    def _api(
        self,
        request: Request,
        endpoint: str,
        answer: Callable[[Account, str], tuple[Json, list[Play]]],
    ) -> Response:
        authorization = request.headers.get("authorization")
        url = str(request.url.replace(query=""))

        def identify() -> Account:
            return answers.authenticate(self.world, authorization, endpoint)

        return self._answer(endpoint, identify, lambda account: answer(account, url))

    def _answer(
        self,
        endpoint: str,
        identify: Callable[[], Account],
        answer: Callable[[Account], tuple[Json, list[Play]]],
    ) -> Response:
        account: Account | None = None
        try:
            account = identify()
            body, plays = answer(account)
        except Refusal as refusal:
            response = json_response(refusal.body, refusal.status, refusal.headers)
        else:
            account.mark_served(plays, self.world.clock.now())
            response = json_response(body)
        self.world.log_call(endpoint, account, response.status_code)
        return response


def make_app(world: World) -> Starlette:
    """The ASGI application of a world."""
    return Starlette(routes=[*Spotify(world).routes(), *control_routes(world)])
