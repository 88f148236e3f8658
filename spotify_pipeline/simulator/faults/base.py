"""What a fault is: it edits or replaces a response, at certain endpoints.

A kind of fault is a frozen dataclass whose fields are its options, all JSON values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from starlette.responses import Response

from spotify_pipeline.simulator.http.responses import Json

TOKEN = "token"  # noqa: S105  # the endpoint's name
PLAYS = "recently_played"
TOPS = ("top_artists", "top_tracks")
API = ("me", PLAYS, *TOPS)
ENDPOINTS = (TOKEN, *API)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at certain endpoints."""

    endpoints: ClassVar[tuple[str, ...]] = ENDPOINTS


@dataclass(frozen=True)
class Edits(Fault):
    """Changes a successful response; the status stays 200."""

    def edit(self, body: Json, rotate_refresh_token: Callable[[], str]) -> Json:
        """Returns the changed body. Must not change `body` in place: its parts are shared."""
        raise NotImplementedError


@dataclass(frozen=True)
class Replaces(Fault):
    """Sends another response instead of the successful one."""

    def response(self, body: Json) -> Response:
        """The response to send instead of this body."""
        raise NotImplementedError
