"""The HTTP of the simulator: Spotify's accounts service and Web API on one port.

The control interface under `/_sim/` is in control_api.
"""

import asyncio
import time
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from spotify_pipeline.simulator.accounts import Account
from spotify_pipeline.simulator.faults.base import Delays, Edits, Fault, Replaces, Scene
from spotify_pipeline.simulator.faults.refusals import Echo
from spotify_pipeline.simulator.http import endpoints
from spotify_pipeline.simulator.http.control_api import control_routes
from spotify_pipeline.simulator.http.oauth import Accounts
from spotify_pipeline.simulator.http.refusal import Refusal
from spotify_pipeline.simulator.http.responses import error_response, json_response
from spotify_pipeline.simulator.http.shapes import Json
from spotify_pipeline.simulator.music.feed import Item
from spotify_pipeline.simulator.music.listeners import to_ms
from spotify_pipeline.simulator.state import Call, World


class Spotify:
    """The endpoints of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.accounts = Accounts(world)

    def routes(self) -> list[Route]:
        """Every path of Spotify's that the pipeline calls."""
        return [
            Route("/authorize", self.authorize),
            Route("/api/token", self.token, methods=["POST"]),
            Route("/v1/me", self.me),
            Route("/v1/me/", self.me),  # public clients ask with the slash, and Spotify answers
            Route("/v1/me/player/recently-played", self.recently_played),
            Route("/v1/me/top/artists", self.top_artists),
            Route("/v1/me/top/tracks", self.top_tracks),
        ]

    async def authorize(self, request: Request) -> Response:
        """Sends the browser back to the app with a code; asks who it is when nobody said so."""
        query = dict(request.query_params)
        try:
            location = self.accounts.authorize(query)
        except Refusal as refusal:
            return error_response(refusal.body, refusal.status)
        if location is None:
            return HTMLResponse(self.accounts.page(query))
        return RedirectResponse(location, 302)

    async def token(self, request: Request) -> Response:
        """Turns a code or a refresh token into an access token."""
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        authorization = request.headers.get("authorization")

        def identify() -> Account:
            return self.accounts.identify(authorization, form)

        return await self._answer(
            "token",
            identify,
            lambda account: (self.accounts.answer(account, form.get("grant_type")), []),
            {"authorization": authorization, **form},
        )

    async def me(self, request: Request) -> Response:
        """Who a token belongs to."""
        return await self._api(
            request, "me", lambda account, url: (endpoints.me(self.world, account), [])
        )

    async def recently_played(self, request: Request) -> Response:
        """The last plays."""
        query = dict(request.query_params)
        return await self._api(
            request,
            "recently_played",
            lambda account, url: endpoints.recently_played(self.world, account, query, url),
        )

    async def top_artists(self, request: Request) -> Response:
        """A page of top artists."""
        query = dict(request.query_params)
        return await self._api(
            request,
            "top_artists",
            lambda account, url: (endpoints.top(self.world, account, "artists", query, url), []),
        )

    async def top_tracks(self, request: Request) -> Response:
        """A page of top tracks."""
        query = dict(request.query_params)
        return await self._api(
            request,
            "top_tracks",
            lambda account, url: (endpoints.top(self.world, account, "tracks", query, url), []),
        )

    async def _api(
        self,
        request: Request,
        endpoint: str,
        answer: Callable[[Account, str], tuple[Json, list[Item]]],
    ) -> Response:
        authorization = request.headers.get("authorization")
        url = str(request.url.replace(query=""))

        def identify() -> Account:
            account = endpoints.authenticate(self.world, authorization, endpoint)
            self.world.limits.check()
            return account

        said = {"authorization": authorization}
        return await self._answer(endpoint, identify, lambda account: answer(account, url), said)

    async def _answer(
        self,
        endpoint: str,
        identify: Callable[[], Account],
        answer: Callable[[Account], tuple[Json, list[Item]]],
        said: Json,
    ) -> Response:
        at, account, rules = time.time(), None, []
        try:
            account = identify()
            rules = list(self.world.faults.strike(endpoint, account.user_id))
            response = await self._hit(account, [rule.fault for rule in rules], answer, said)
        except Refusal as refusal:
            response = error_response(refusal.body, refusal.status, refusal.headers)
        user_id = account.user_id if account else None
        names = tuple(rule.kind for rule in rules)
        self.world.calls.append(Call(at, endpoint, user_id, response.status_code, names))
        return response

    async def _hit(
        self,
        account: Account,
        faults: list[Fault],
        answer: Callable[[Account], tuple[Json, list[Item]]],
        said: Json,
    ) -> Response:
        """The good answer, after the faults have done to it what they do."""
        for fault in faults:
            if isinstance(fault, Delays):
                await asyncio.sleep(fault.seconds)
        body, items = answer(account)
        now = self.world.clock.now()
        scene = Scene(now, lambda: self.world.rotate_refresh_token(account))
        for fault in faults:
            if isinstance(fault, Edits):
                body = fault.edit(body, scene)
            elif isinstance(fault, Replaces):
                return fault.response(said if isinstance(fault, Echo) else body)
        now_ms = to_ms(now)
        account.mark_served(endpoints.readable_items(account, items, body, now_ms), now_ms)
        return json_response(body)


def make_app(world: World) -> Starlette:
    """The ASGI application of a world."""
    return Starlette(routes=[*Spotify(world).routes(), *control_routes(world)])
