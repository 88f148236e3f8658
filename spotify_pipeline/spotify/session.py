"""The calls of one user, who has a token that must be refreshed now and then."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeVar

from spotify_pipeline.domain.model import PlaysPage, Profile, TimeRange, TopArtists, TopTracks
from spotify_pipeline.domain.quota import Priority
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.errors import AccessTokenExpired, BadResponse

Result = TypeVar("Result")


class TokenSource(Protocol):
    """Where a user's access tokens come from; what it raises passes through."""

    def access_token(self) -> str:
        """The current access token, refreshed if none is at hand."""
        ...

    def refresh(self) -> str:
        """A new access token, whatever is at hand: the current one was refused."""
        ...


class UserSession:
    """SpotifyApi for one user: on 401 it refreshes once and tries once more.

    A second 401, with a token that is seconds old, raises BadResponse and not Reconnect: Spotify
    has just honoured the refresh token, so the connection is alive, and reconnecting would not
    help. As a transient failure it heals by itself; as Reconnect, an hour of wrong 401s at Spotify
    would disconnect every user. A revoked connection shows itself at the refresh, as Reconnect.
    """

    def __init__(
        self, api: SpotifyApi, tokens: TokenSource, priority: Priority = "request"
    ) -> None:
        self._api = api
        self._tokens = tokens
        self._priority: Priority = priority

    def recently_played(self, now: datetime) -> PlaysPage:
        """See SpotifyApi.recently_played."""
        return self._call(lambda token: self._api.recently_played(token, now, self._priority))

    def top_artists(self, time_range: TimeRange, limit: int) -> TopArtists:
        """See SpotifyApi.top_artists."""
        return self._call(
            lambda token: self._api.top_artists(token, time_range, limit, self._priority)
        )

    def top_tracks(self, time_range: TimeRange, limit: int) -> TopTracks:
        """See SpotifyApi.top_tracks."""
        return self._call(
            lambda token: self._api.top_tracks(token, time_range, limit, self._priority)
        )

    def profile(self) -> Profile:
        """See SpotifyApi.profile."""
        return self._call(lambda token: self._api.profile(token, self._priority))

    def _call(self, call: Callable[[str], Result]) -> Result:
        try:
            return call(self._tokens.access_token())
        except AccessTokenExpired:
            pass
        try:
            return call(self._tokens.refresh())
        except AccessTokenExpired as again:
            what_happened = again.what_happened
        raise BadResponse(f"{what_happened}, though it was new")
