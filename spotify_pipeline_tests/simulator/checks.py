"""The fields and types of Spotify's objects, written by hand from its schema document."""

import re
from typing import Any
from urllib.parse import urlsplit

BASE_62 = re.compile(r"[0-9A-Za-z]{22}")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
RELEASE_DATE = {"year": r"\d{4}", "month": r"\d{4}-\d\d", "day": r"\d{4}-\d\d-\d\d"}
LINK = {"external_urls", "href", "id", "type", "uri"}
SIMPLE_ARTIST = LINK | {"name"}
ARTIST = SIMPLE_ARTIST | {"images"}
FULL_ARTIST = ARTIST | {"followers", "genres", "popularity"}
ALBUM = LINK | {
    "album_type",
    "artists",
    "images",
    "name",
    "release_date",
    "release_date_precision",
    "total_tracks",
}
TRACK = LINK | {
    "album",
    "artists",
    "disc_number",
    "duration_ms",
    "explicit",
    "external_ids",
    "is_local",
    "name",
    "preview_url",
    "track_number",
}
FULL_TRACK = TRACK | {"available_markets", "popularity"}


def check_link(shown: dict[str, Any], kind: str) -> None:
    assert shown["type"] == kind
    assert BASE_62.fullmatch(shown["id"])
    assert shown["uri"] == f"spotify:{kind}:{shown['id']}"
    assert shown["href"] == f"https://api.spotify.com/v1/{kind}s/{shown['id']}"
    assert shown["external_urls"] == {"spotify": f"https://open.spotify.com/{kind}/{shown['id']}"}


def check_images(images: list[dict[str, Any]]) -> None:
    assert images
    for image in images:
        assert set(image) == {"url", "height", "width"}
        assert urlsplit(image["url"]).hostname == "i.scdn.example"
        assert isinstance(image["height"], int)
        assert isinstance(image["width"], int)
    widths = [image["width"] for image in images]
    assert widths == sorted(widths, reverse=True)


def check_text(text: object) -> None:
    assert isinstance(text, str)
    assert text


def check_artist(artist: dict[str, Any], *, full: bool) -> None:
    check_link(artist, "artist")
    check_text(artist["name"])
    check_images(artist["images"])
    assert set(artist) == (FULL_ARTIST if full else ARTIST)
    if full:
        assert all(isinstance(genre, str) for genre in artist["genres"])
        assert artist["followers"]["href"] is None
        assert isinstance(artist["followers"]["total"], int)
        assert artist["popularity"] in range(101)


def check_album(album: dict[str, Any], *, full: bool) -> None:
    check_link(album, "album")
    assert set(album) == (ALBUM | {"available_markets"} if full else ALBUM)
    assert album["album_type"] in ("album", "single", "compilation")
    check_text(album["name"])
    check_images(album["images"])
    assert re.fullmatch(RELEASE_DATE[album["release_date_precision"]], album["release_date"])
    assert album["total_tracks"] >= 1
    assert [set(artist) for artist in album["artists"]] == [SIMPLE_ARTIST]


def check_track(track: dict[str, Any], *, full: bool) -> None:
    check_link(track, "track")
    assert set(track) == (FULL_TRACK if full else TRACK)
    check_text(track["name"])
    check_album(track["album"], full=full)
    assert track["artists"]
    for artist in track["artists"]:
        assert set(artist) == SIMPLE_ARTIST
        check_link(artist, "artist")
    assert type(track["duration_ms"]) is int
    assert type(track["explicit"]) is bool
    assert track["is_local"] is False
    assert track["preview_url"] is None
    assert re.fullmatch(r"[A-Z]{2}[A-Z0-9]{3}\d{7}", track["external_ids"]["isrc"])
    assert track["disc_number"] == 1
    assert 1 <= track["track_number"] <= track["album"]["total_tracks"]


def check_context(context: dict[str, Any] | None) -> None:
    if context is not None:
        assert set(context) == {"type", "href", "external_urls", "uri"}
        assert context["type"] in ("album", "playlist", "collection")
        assert context["uri"].startswith("spotify:")


def check_plays(page: dict[str, Any], *, full: bool = False) -> None:
    assert set(page) == {"items", "next", "cursors", "limit", "href"}
    for item in page["items"]:
        assert set(item) == {"track", "played_at", "context"}
        assert TIMESTAMP.fullmatch(item["played_at"])
        check_track(item["track"], full=full)
        check_context(item["context"])
    times = [item["played_at"] for item in page["items"]]
    assert times == sorted(times, reverse=True)
    if times:
        assert set(page["cursors"]) == {"after", "before"}
        assert int(page["cursors"]["after"]) >= int(page["cursors"]["before"])
        assert all(isinstance(cursor, str) for cursor in page["cursors"].values())
    else:
        assert page["cursors"] is None
        assert page["next"] is None


def check_page(page: dict[str, Any]) -> None:
    assert set(page) == {"href", "limit", "next", "offset", "previous", "total", "items"}
    assert len(page["items"]) <= page["limit"]
    assert (page["next"] is None) == (page["offset"] + page["limit"] >= page["total"])
    assert (page["previous"] is None) == (page["offset"] == 0)
