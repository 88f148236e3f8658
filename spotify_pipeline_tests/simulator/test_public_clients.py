"""Public client libraries for the real Spotify read the simulator without an error."""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pydantic
import pytest
import spotipy
import tekore
from spotipy.cache_handler import MemoryCacheHandler

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline_tests.simulator.conftest import ListenerClient

RANGES = ("short_term", "medium_term", "long_term")
REDIRECT = "http://127.0.0.1:8000/callback"
# Spotify omits these for apps in development mode; tekore still expects them.
LEFT_OUT = {"popularity", "followers", "genres"}


class ToSimulator(httpx.HTTPTransport):
    """Sends requests for Spotify to the simulator."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self._address = urlsplit(simulator.url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(
            scheme="http", host=self._address.hostname, port=self._address.port
        )
        return super().handle_request(request)


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Callable[[ListenerClient], tekore.Spotify]]:
    """A listener's tekore client, built from the refresh token."""
    sender = tekore.SyncSender(httpx.Client(transport=ToSimulator(simulator)))
    credentials = tekore.Credentials(simulator.client_id, simulator.client_secret, sender=sender)
    yield lambda listener: tekore.Spotify(
        credentials.refresh_user_token(listener.refresh_token), sender
    )
    sender.close()


@pytest.mark.parametrize("shape", ["development", "full"])
def test_spotipy_refreshes_a_token_and_reads_plays_and_top_lists(
    simulator: Simulator, add_listener: Callable[..., ListenerClient], shape: str
) -> None:
    listener = add_listener(shape=shape)
    oauth = spotipy.SpotifyOAuth(
        simulator.client_id,
        simulator.client_secret,
        REDIRECT,
        cache_handler=MemoryCacheHandler(),
    )
    oauth.OAUTH_TOKEN_URL = f"{simulator.url}/api/token"
    token = oauth.refresh_access_token(listener.refresh_token)["access_token"]
    client = spotipy.Spotify(auth=token, retries=0)
    client.prefix = f"{simulator.url}/v1/"
    assert client.me()["id"] == listener.user_id
    page = client.current_user_recently_played(limit=50)
    assert len(page["items"]) == 50
    assert client.next(page)["items"] == []
    for time_range in RANGES:
        for top in (client.current_user_top_artists, client.current_user_top_tracks):
            first = top(limit=20, time_range=time_range)
            assert len(first["items"]) == 20
            assert client.next(first)["offset"] == 20


def test_tekore_checks_every_field_of_plays_and_top_lists(
    client: Callable[[ListenerClient], tekore.Spotify], add_listener: Callable[..., ListenerClient]
) -> None:
    listener = add_listener(shape="full")
    spotify = client(listener)
    assert spotify.current_user().id == listener.user_id
    page = spotify.playback_recently_played(limit=50)
    assert len(page.items) == 50
    assert spotify.playback_recently_played(before=int(page.cursors.before)).items == []
    for time_range in RANGES:
        for top in (spotify.current_user_top_artists, spotify.current_user_top_tracks):
            assert len(top(time_range, limit=20).items) == 20


def test_tekore_reports_only_the_fields_that_development_mode_omits(
    client: Callable[[ListenerClient], tekore.Spotify], add_listener: Callable[..., ListenerClient]
) -> None:
    spotify = client(add_listener(shape="development"))
    for read in (
        spotify.playback_recently_played,
        spotify.current_user_top_artists,
        spotify.current_user_top_tracks,
    ):
        with pytest.raises(pydantic.ValidationError) as complaint:
            read()
        about = {(error["type"], error["loc"][-1]) for error in complaint.value.errors()}
        assert about <= {("missing", field) for field in LEFT_OUT}
