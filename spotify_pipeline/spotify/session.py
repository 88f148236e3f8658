"""Calls the Web API with a user's access token, and refreshes the token once on 401."""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from spotify_pipeline.spotify.errors import AccessTokenExpired, BadResponse

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
