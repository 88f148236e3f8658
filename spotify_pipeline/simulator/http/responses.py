"""JSON as Spotify sends it: artists, tracks, plays, profiles, and errors as exceptions."""

import datetime as dt
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

from starlette.responses import Response

from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST, Catalogue, TrackNames
from spotify_pipeline.simulator.music.listeners import from_ms

Json = dict[str, Any]
Shape = Literal["development", "full"]
_API = "https://api.spotify.com/v1"
_OPEN = "https://open.spotify.com"
# A reserved name (RFC 2606), so nothing is ever fetched from it.
_IMAGES = "https://i.scdn.example/image"
_MARKETS = ["AR", "BR", "DE", "IN", "JP", "NG", "NO", "US"]


class Refusal(Exception):
    """An error as Spotify sends it: HTTP status, and a JSON body or plain text."""

    def __init__(
        self, status: int, body: Json | str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})

    @classmethod
    def api(cls, status: int, message: str) -> "Refusal":
        """An error of the Web API."""
        return cls(status, error(status, message))

    @classmethod
    def accounts(cls, code: str, description: str) -> "Refusal":
        """An error of accounts.spotify.com: 400 with a flat body."""
        return cls(400, {"error": code, "error_description": description})


def error(status: int, message: str, **more: str) -> Json:
    """The JSON body of a Web API error."""
    return {"error": {"status": status, "message": message, **more}}


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Compact JSON, everything outside ASCII escaped."""
    text = json.dumps(body, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json; charset=utf-8")


def error_response(body: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An error response: JSON, or plain text where Spotify sends plain text."""
    if isinstance(body, str):
        return Response(body, status, headers, media_type="text/plain; charset=utf-8")
    return json_response(body, status, headers)


def timestamp(moment: dt.datetime) -> str:
    """An instant in Spotify's format: `YYYY-MM-DDTHH:MM:SS.mmmZ`."""
    utc = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"


def link(kind: str, identifier: str) -> Json:
    """The fields that all Spotify objects have."""
    return {
        "external_urls": {"spotify": f"{_OPEN}/{kind}/{identifier}"},
        "href": f"{_API}/{kind}s/{identifier}",
        "id": identifier,
        "type": kind,
        "uri": f"spotify:{kind}:{identifier}",
    }


def images(identifier: str, *sides: int) -> list[Json]:
    """Square images, widest first."""
    return [
        {"url": f"{_IMAGES}/{identifier}-{side}", "height": side, "width": side} for side in sides
    ]


@lru_cache(1024)
def context(uri: str | None) -> Json | None:
    """What a play was started from: album, playlist, the user's collection, or None."""
    if uri is None:
        return None
    kind, identifier = uri.split(":")[1:3]
    if uri.endswith(":collection"):
        url = f"{_OPEN}/collection/tracks"
        return {
            "type": "collection",
            "external_urls": {"spotify": url},
            "href": f"{_API}/me/tracks",
            "uri": uri,
        }
    shown = link(kind, identifier)
    del shown["id"]
    return shown


def play(track: Json, played_ms: int, context_uri: str | None) -> Json:
    """An item of a recently-played page."""
    return {
        "track": track,
        "played_at": timestamp(from_ms(played_ms)),
        "context": context(context_uri),
    }


def profile(user_id: str, account_id: str, display_name: str | None, shape: Shape) -> Json:
    """The body of /v1/me with the two scopes that the pipeline requests."""
    shown = link("user", quote(user_id, safe="")) | {
        "id": user_id,
        "account_id": account_id,
        "display_name": display_name,
        "images": images(account_id, 300, 64),
    }
    if shape == "full":
        shown["followers"] = {"href": None, "total": len(user_id) * 7}
    return shown


class Shapes:
    """Builds the JSON of a catalogue's artists, tracks and plays."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        # Cached objects are shared between responses: code that changes one must copy it first.
        self.artist = lru_cache(4096)(self._artist)
        self.track = lru_cache(8192)(self._track)

    def track_as(self, track: int, names: TrackNames, shape: Shape) -> Json:
        """A track with other names than in the catalogue: relinked, changed or emptied."""
        shown = self.track(track, shape)
        if names == self._catalogue.track(track):
            return shown
        shown = shown | link("track", names.spotify_id)
        shown["artists"] = [self._simple_artist(artist) for artist in names.artists]
        shown |= {"name": names.name, "duration_ms": names.duration_ms}
        return shown | {"popularity": names.popularity} if shape == "full" else shown

    def _simple_artist(self, artist: int) -> Json:
        names = self._catalogue.artist(artist)
        return link("artist", names.spotify_id) | {"name": names.name}

    def _artist(self, artist: int, shape: Shape) -> Json:
        names = self._catalogue.artist(artist)
        shown = self._simple_artist(artist) | {"images": images(names.spotify_id, 640, 320, 160)}
        if shape == "full":
            shown |= {
                "followers": {"href": None, "total": names.popularity**3 + artist},
                "genres": list(names.genres),
                "popularity": names.popularity,
            }
        return shown

    def _album(self, artist: int, release: int, shape: Shape) -> Json:
        names = self._catalogue.album(artist, release)
        shown = link("album", names.spotify_id) | {
            "album_type": names.album_type,
            "artists": [self._simple_artist(artist)],
            "images": images(names.spotify_id, 640, 300, 64),
            "name": names.name,
            "release_date": names.release_date,
            "release_date_precision": names.precision,
            "total_tracks": names.size,
        }
        if shape == "full":
            shown["available_markets"] = _MARKETS
        return shown

    def _track(self, track: int, shape: Shape) -> Json:
        names = self._catalogue.track(track)
        shown = link("track", names.spotify_id) | {
            "album": self._album(track // TRACKS_PER_ARTIST, names.release, shape),
            "artists": [self._simple_artist(artist) for artist in names.artists],
            "disc_number": 1,
            "duration_ms": names.duration_ms,
            "explicit": names.explicit,
            "external_ids": {"isrc": names.isrc},
            "is_local": False,
            "name": names.name,
            "preview_url": None,
            "track_number": names.track_number,
        }
        if shape == "full":
            shown |= {"available_markets": _MARKETS, "popularity": names.popularity}
        return shown
