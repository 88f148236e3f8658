"""The routes of the simulator: Spotify's accounts service and Web API on one port.

Applies faults and logs calls. Bodies are built in endpoints and oauth; `/_sim/` is in control_api.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from spotify_pipeline.simulator.accounts import Account
from spotify_pipeline.simulator.faults.base import Edits, Fault, Replaces
from spotify_pipeline.simulator.faults.refusals import Echo, Latency
from spotify_pipeline.simulator.http import endpoints
from spotify_pipeline.simulator.http.control_api import control_routes
from spotify_pipeline.simulator.http.oauth import AuthorizationServer
from spotify_pipeline.simulator.http.responses import Json, Refusal, error_response, json_response
from spotify_pipeline.simulator.music.feed import Item
from spotify_pipeline.simulator.records import CallRecord
from spotify_pipeline.simulator.state import SimulatorState


class Spotify:
    """Request handlers of Spotify's endpoints."""

    def __init__(self, state: SimulatorState) -> None:
        self.state = state
        self.authorization = AuthorizationServer(state)

    def routes(self) -> list[Route]:
        """Every route of Spotify that the pipeline calls."""
        api = {
            "/v1/me": "me",
            "/v1/me/": "me",  # public clients send the slash, and Spotify accepts it
            "/v1/me/player/recently-played": "recently_played",
            "/v1/me/top/artists": "top_artists",
            "/v1/me/top/tracks": "top_tracks",
        }
        return [
            Route("/authorize", self.authorize),
            Route("/api/token", self.token, methods=["POST"]),
            *(Route(path, self._api(endpoint)) for path, endpoint in api.items()),
        ]

    async def authorize(self, request: Request) -> Response:
        """Redirects the browser to the app with a code; without a user, shows a chooser."""
        query = dict(request.query_params)
        try:
            location = self.authorization.authorize(query)
        except Refusal as refusal:
            return error_response(refusal.body, refusal.status)
        if location is None:
            return HTMLResponse(self.authorization.page(query))
        return RedirectResponse(location, 302)

    async def token(self, request: Request) -> Response:
        """Exchanges a code or a refresh token for an access token."""
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        authorization = request.headers.get("authorization")
        return await self._answer(
            "token",
            lambda: self.authorization.identify(authorization, form),
            lambda account: (self.authorization.answer(account, form.get("grant_type")), []),
            {"authorization": authorization, **form},
        )

    def _api(self, endpoint: str) -> Callable[[Request], Awaitable[Response]]:
        """The request handler of a Web API endpoint."""

        async def handler(request: Request) -> Response:
            authorization = request.headers.get("authorization")
            url, query = str(request.url.replace(query="")), dict(request.query_params)

            def identify() -> Account:
                account = endpoints.authenticate(self.state, authorization, endpoint)
                self.state.limits.check()
                return account

            def answer(account: Account) -> tuple[Json, list[Item]]:
                return endpoints.ANSWERS[endpoint](self.state, account, query, url)

            return await self._answer(endpoint, identify, answer, {"authorization": authorization})

        return handler

    async def _answer(
        self,
        endpoint: str,
        identify: Callable[[], Account],
        answer: Callable[[Account], tuple[Json, list[Item]]],
        credentials: Json,
    ) -> Response:
        at, account, rules = time.time(), None, []
        try:
            account = identify()
            rules = list(self.state.faults.strike(endpoint, account.user_id))
            response = await self._hit(account, [rule.fault for rule in rules], answer, credentials)
        except Refusal as refusal:
            response = error_response(refusal.body, refusal.status, refusal.headers)
        user_id = account.user_id if account else None
        names = tuple(rule.kind for rule in rules)
        if at >= self.state.calls_since:
            self.state.calls.append(CallRecord(at, endpoint, user_id, response.status_code, names))
        return response

    async def _hit(
        self,
        account: Account,
        faults: list[Fault],
        answer: Callable[[Account], tuple[Json, list[Item]]],
        credentials: Json,
    ) -> Response:
        """The successful response, delayed, edited or replaced by the faults."""
        for fault in faults:
            if isinstance(fault, Latency):
                await asyncio.sleep(fault.seconds)
        body, items = answer(account)
        for fault in faults:
            if isinstance(fault, Edits):
                body = fault.edit(body, lambda: self.state.rotate_refresh_token(account))
            elif isinstance(fault, Replaces):
                return fault.response(credentials if isinstance(fault, Echo) else body)
        now_ms = self.state.now_ms()
        account.mark_served(endpoints.readable_items(account, items, body, now_ms), now_ms)
        return json_response(body)


def make_app(state: SimulatorState) -> Starlette:
    """The ASGI application of a simulator."""
    return Starlette(routes=[*Spotify(state).routes(), control_routes(state)])
