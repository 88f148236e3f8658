"""The four calls to the Web API with a user's access token, and what their refusals mean.

A token that Spotify refuses with 401 is refreshed once.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from spotify_pipeline.domain.listening.coverage import PAGE_SIZE
from spotify_pipeline.domain.model import PlaysPage, Profile, TimeRange, TopArtists, TopTracks
from spotify_pipeline.domain.parsing import (
    BadPayload,
    parse_profile,
    parse_recently_played,
    parse_top_artists,
    parse_top_tracks,
)
from spotify_pipeline.domain.quota import Priority
from spotify_pipeline.spotify.errors import (
    AccessTokenExpired,
    AppBlocked,
    BadResponse,
    MissingScope,
    NotAllowlisted,
    SpotifyError,
)
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.messages import BaseUrl, Request, Response, bearer

Params = ParamSpec("Params")
Result = TypeVar("Result")


class TokenSource(Protocol):
    """Supplies a user's access tokens; its errors propagate."""

    def access_token(self) -> str:
        """The cached access token, refreshed if there is none or it expires soon."""
        ...

    def refresh(self, refused: str) -> str:
        """A newer access token than the one that Spotify refused."""
        ...


def call_with_token(
    tokens: TokenSource,
    method: Callable[Concatenate[str, Params], Result],
    *args: Params.args,
    **kwargs: Params.kwargs,
) -> Result:
    """Calls a method of SpotifyApi with the user's token; on 401 refreshes and calls once more.

    A second 401, with a token that is seconds old, raises BadResponse and not Reconnect: Spotify
    has just accepted the refresh token, so reconnecting would not help. A transient failure heals
    by itself; as Reconnect, an hour of wrong 401s at Spotify would disconnect every user. A revoked
    connection raises Reconnect at the refresh.
    """
    access_token = tokens.access_token()
    try:
        return method(access_token, *args, **kwargs)
    except AccessTokenExpired:
        pass
    try:
        return method(tokens.refresh(access_token), *args, **kwargs)
    except AccessTokenExpired as again:
        what_happened = again.what_happened
    # Outside of the except block, so that the error carries no context with a token.
    raise BadResponse(f"{what_happened}, though it was new")


Parsed = TypeVar("Parsed")


class SpotifyApi:
    """Spotify's Web API for whichever access token is given.

    `api_url` comes without /v1; raises ValueError if it is neither https nor loopback. The
    priority of a call decides how early the rate limiter admits it.
    Every method raises a SpotifyError: AccessTokenExpired, MissingScope, NotAllowlisted,
    AppBlocked, RateLimited, SpotifyUnavailable or BadResponse.
    """

    def __init__(self, api_url: str, transport: Transport) -> None:
        self._base = BaseUrl.parse(api_url)
        self._transport = transport

    def recently_played(
        self, access_token: str, now: datetime, priority: Priority = "request"
    ) -> PlaysPage:
        """The last 50 plays, newest first; what lies in the future of `now` is skipped."""
        return self._get(
            "recently_played",
            "/v1/me/player/recently-played",
            access_token,
            priority,
            lambda payload: parse_recently_played(payload, now),
            # They fill in late: so always all of them, never a cursor.
            limit=str(PAGE_SIZE),
        )

    def top_artists(
        self,
        access_token: str,
        time_range: TimeRange,
        limit: int,
        priority: Priority = "request",
    ) -> TopArtists:
        """The first `limit` (1 to 50) top artists of a time range, best first."""
        return self._get(
            "top_artists",
            "/v1/me/top/artists",
            access_token,
            priority,
            lambda payload: parse_top_artists(payload, time_range),
            time_range=time_range,
            limit=str(limit),
        )

    def top_tracks(
        self,
        access_token: str,
        time_range: TimeRange,
        limit: int,
        priority: Priority = "request",
    ) -> TopTracks:
        """The first `limit` (1 to 50) top tracks of a time range, best first."""
        return self._get(
            "top_tracks",
            "/v1/me/top/tracks",
            access_token,
            priority,
            lambda payload: parse_top_tracks(payload, time_range),
            time_range=time_range,
            limit=str(limit),
        )

    def profile(self, access_token: str, priority: Priority = "request") -> Profile:
        """The Spotify account of the token."""
        return self._get("profile", "/v1/me", access_token, priority, parse_profile)

    def _get(
        self,
        endpoint: str,
        path: str,
        access_token: str,
        priority: Priority,
        parse: Callable[[object], Parsed],
        **params: str,
    ) -> Parsed:
        request = Request(
            endpoint,
            "GET",
            self._base,
            path,
            params=params,
            authorization=bearer(access_token),
            priority=priority,
        )
        answer = self._transport.send(request)
        if answer.status != 200:
            raise self._transport.report(refusal(endpoint, answer))
        try:
            return parse(answer.payload)
        except BadPayload as bad:  # names the field, never its content
            what_is_wrong = str(bad)
        raise BadResponse(f"{endpoint}: {what_is_wrong}")


def refusal(endpoint: str, answer: Response) -> SpotifyError:
    """The error for a 4xx of the Web API. Bodies are JSON or plain text: both are searched.

    A 401 says "Permissions missing" when the token lacks a scope: a refresh would not add it.

    A 403 that is not known counts as NotAllowlisted: it is what it says (this app may not read
    this account), nothing was wrong with the answer, and asking again at once does not help.
    """
    text = answer.text.lower()
    if answer.status == 401 and "permissions missing" not in text:
        return AccessTokenExpired(f"{endpoint}: the access token is refused")
    if answer.status not in (401, 403):
        return BadResponse(f"{endpoint}: status {answer.status}")
    if answer.status == 401 or "insufficient client scope" in text:
        return MissingScope(f"{endpoint}: the scope was not granted")
    if "premium subscription" in text or "your application is blocked" in text:
        return AppBlocked(f"{endpoint}: Spotify blocks the app, its owner needs Premium")
    if "not registered in the developer dashboard" in text:
        return NotAllowlisted(f"{endpoint}: the account is not in the app's list of users")
    return NotAllowlisted(f"{endpoint}: forbidden, without a reason that is known")
