"""Parses Spotify's JSON into values. Raises BadPayload for a wrong body, skips unusable items.

Apps in development mode get artists without genres and popularity and tracks without popularity;
others get both. Both shapes are normal: a field that was not sent is None, an empty list of genres
is (). No item can fail its page: an unusable one is left out and counted by reason in `skipped`.

    null_item     a null stands where an item should
    null_track    the item has no track
    local_file    the track has no id: a file on the user's own disk
    no_artist     no artist, or none with an id
    bad_time      played_at is missing or cannot be read
    future        played_at is more than 5 minutes after `now`
    bad_item      an id, a name or the duration is missing or of the wrong type (an empty name and
                  a length of 0 are not: Spotify sends such tracks, and the play is one)
    duplicate     the same play, artist or track is further up on the page
    beyond_limit  the top list is longer than Spotify says it can be
    relinked      the same recording at the same instant, under another id, is further up
    no_id         an artist or track without an id in a top list
    cleaned_text  not an item: a text from which NUL or half a surrogate pair was removed
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import TypeVar

from spotify_pipeline.domain.listening.recordings import without_relinked
from spotify_pipeline.domain.model import (
    Artist,
    Play,
    PlaysPage,
    Profile,
    TimeRange,
    TopArtists,
    TopTrack,
    TopTracks,
    Track,
)

# Postgres stores neither NUL nor half a surrogate pair; JSON can carry both.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NOT_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LINK = re.compile(r"https?://[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,2000}")
_LEAP_SECOND = re.compile(r"(?<=:[0-9]{2}:)60|(?<=[T ][0-9]{4})60")
_MIDNIGHT_AS_24 = re.compile(r"(?<=[T ])24(?=(:?00){0,2}([.,]0+)?(Z|[+-]|$))")

# Pictures come in a few widths; 300 is sharp in a list or on a card.
_IMAGE_WIDTH = 300
_LONGEST_ID = 255
# Spotify was founded in April 2006: an earlier play comes from a clock that was never set.
_FIRST_YEAR = 2006

_LONGEST_MS = 2**31 - 1
# Mixes and audio books last hours. A length of more than a day is an error.
_LONGEST_TRACK_MS = 24 * 3_600_000


# Clocks differ; a play further ahead than this would open tomorrow's day.
FUTURE_AFTER = timedelta(minutes=5)

Json = Mapping[str, object]
Catalogued = TypeVar("Catalogued", Artist, Track)


class BadPayload(ValueError):
    """The body has the wrong form. The message names the field and never quotes the body."""


class _Skip(Exception):
    """The item is unusable; the argument is the reason it is counted under."""


# Spotify sends no longer list, and the tables allow none: a longer response is cut.
LONGEST_LIST = 50


def parse_recently_played(payload: object, now: datetime) -> PlaysPage:
    """Parses a recently-played page; `now` is an aware datetime. Raises BadPayload.

    Plays are in the order sent. Of one recording at one instant only the first is kept, because
    Spotify repeats a play under another track id when it relinks the track; different recordings
    may share an instant. `item_times` holds every readable time, skipped items and those in the
    future included.
    """
    items = _items(payload)
    texts, skipped = Texts(), Counter[str]()
    times: list[datetime] = []
    plays: dict[tuple[datetime, str], tuple[Play, Track]] = {}
    artists: dict[str, Artist] = {}

    def parse(item: Json) -> None:
        played_at = read_instant(item.get("played_at"))
        if played_at is not None:
            times.append(played_at)
        if item.get("track") is None:
            raise _Skip("null_track")
        track, by = _track(item["track"], texts, without_id="local_file")
        if played_at is None:
            raise _Skip("bad_time")
        if played_at > now + FUTURE_AFTER:
            raise _Skip("future")
        if (played_at, track.spotify_id) in plays:
            raise _Skip("duplicate")
        context_uri = texts.read(read_object(item.get("context")).get("uri"))
        play = Play(played_at, track.spotify_id, context_uri)
        plays[played_at, track.spotify_id] = play, track
        _collect(artists, by)

    _each(items, parse, skipped)
    kept = list(without_relinked(list(plays.values())))
    if relinked := len(plays) - len(kept):
        skipped["relinked"] = relinked
    tracks: dict[str, Track] = {}
    _collect(tracks, (track for _, track in kept))
    return PlaysPage(
        plays=tuple(play for play, _ in kept),
        tracks=tuple(tracks.values()),
        artists=tuple(artists.values()),
        item_times=tuple(sorted(times, reverse=True)),
        # Without `next` the page may not be the last one, so it must not count as short.
        has_more=read_object(payload).get("next", "unknown") is not None,
        items=len(items),
        skipped=_counts(skipped, texts),
    )


def parse_top_artists(payload: object, time_range: TimeRange) -> TopArtists:
    """Parses a top artists page, best first; rank is the position among those kept.

    Raises BadPayload.
    """
    texts, skipped = Texts(), Counter[str]()
    artists: dict[str, Artist] = {}

    def parse(item: Json) -> None:
        artist = _artist(item, texts)
        if artist.spotify_id in artists:
            raise _Skip("duplicate")
        if len(artists) == LONGEST_LIST:
            raise _Skip("beyond_limit")
        artists[artist.spotify_id] = artist

    _each(_items(payload), parse, skipped)
    return TopArtists(time_range, tuple(artists.values()), _counts(skipped, texts))


def parse_top_tracks(payload: object, time_range: TimeRange) -> TopTracks:
    """Parses a top tracks page, best first; rank is the position among those kept.

    Raises BadPayload.
    """
    texts, skipped = Texts(), Counter[str]()
    tracks: dict[str, Track] = {}
    artists: dict[str, Artist] = {}
    entries: list[TopTrack] = []

    def parse(item: Json) -> None:
        track, by = _track(item, texts, without_id="no_id")
        if track.spotify_id in tracks:
            raise _Skip("duplicate")
        if len(entries) == LONGEST_LIST:
            raise _Skip("beyond_limit")
        tracks[track.spotify_id] = track
        _collect(artists, by)
        entries.append(
            TopTrack(
                spotify_id=track.spotify_id,
                name=track.name,
                artist_name=by[0].name,
                album_name=track.album_name,
                image_url=read_image(read_object(item.get("album")).get("images")),
                preview_url=read_link(item.get("preview_url")),
            )
        )

    _each(_items(payload), parse, skipped)
    return TopTracks(
        time_range=time_range,
        entries=tuple(entries),
        tracks=tuple(tracks.values()),
        artists=tuple(artists.values()),
        skipped=_counts(skipped, texts),
    )


def parse_profile(payload: object) -> Profile:
    """Parses the profile. Raises BadPayload, also for an account_id that is not a valid id."""
    profile = _body(payload)
    user_id = read_id(profile.get("id"))
    account_id = read_id(profile.get("account_id"))
    if user_id is None:
        raise BadPayload("The profile has no usable id.")
    if account_id is None and profile.get("account_id") is not None:
        raise BadPayload("The profile's account_id is not a usable id.")
    return Profile(user_id, account_id, Texts().read(profile.get("display_name")))


@dataclass
class Texts:
    """Cleans texts and counts in `cleaned` how many were changed."""

    cleaned: int = 0

    def read(self, value: object) -> str | None:
        """The text without NUL and lone surrogates; None for anything but text."""
        if not isinstance(value, str):
            return None
        if value.isprintable():
            return value
        clean = _UNSTORABLE.sub("", value)
        self.cleaned += clean != value
        return clean


def read_id(value: object) -> str | None:
    """An id as sent: 1 to 255 characters, none of them a control character."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID:
        return None
    return value if value.isprintable() or not _NOT_IN_IDS.search(value) else None


def read_integer(value: object, low: int, high: int) -> int | None:
    """A whole JSON number from low to high."""
    return value if type(value) is int and low <= value <= high else None


def read_link(value: object) -> str | None:
    """An http or https URL. Apps put it into pages, so other schemes would be an injection."""
    return value if isinstance(value, str) and _LINK.fullmatch(value) else None


def read_objects(value: object) -> Iterator[Mapping[str, object]]:
    """The JSON objects of a list; empty for anything else."""
    return (
        entry for entry in (value if isinstance(value, list) else ()) if isinstance(entry, dict)
    )


def read_object(value: object) -> Mapping[str, object]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def read_image(value: object) -> str | None:
    """The URL of the picture whose width is nearest to 300 pixels; the first among equals.

    A picture without a width is taken only if none has one.
    """
    best, nearest = None, inf
    for image in read_objects(value):
        width = read_integer(image.get("width"), 1, 100_000)
        distance = inf if width is None else abs(width - _IMAGE_WIDTH)
        if (best is None or distance < nearest) and (link := read_link(image.get("url"))):
            best, nearest = link, distance
    return best


def read_instant(value: object) -> datetime | None:
    """An ISO 8601 date and time as an aware UTC datetime, cut to the millisecond.

    Extended, basic and week form, any number of decimals, any offset; without an offset it is UTC,
    the only one Spotify documents. A leap second (23:59:60) is the last millisecond before it,
    because neither Python nor Postgres has a sixty-first second; 24:00 is the next midnight.
    None for anything else, and for a time before 2006, when Spotify began.
    """
    if not isinstance(value, str) or not re.search("[T ]", text := value.upper()):
        return None
    text, leap_seconds = _LEAP_SECOND.subn("59", text)
    text, midnights = _MIDNIGHT_AS_24.subn("00", text)
    try:
        moment = datetime.fromisoformat(text) + timedelta(days=midnights)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    millisecond = 999 if leap_seconds else moment.microsecond // 1000
    moment = moment.replace(microsecond=millisecond * 1000)
    return moment if moment.year >= _FIRST_YEAR else None


def _body(payload: object) -> Json:
    if not isinstance(payload, dict):
        raise BadPayload("The body is not a JSON object.")
    return payload


def _items(payload: object) -> list[object]:
    items = _body(payload).get("items")
    if not isinstance(items, list):
        raise BadPayload("The field items is not a list.")
    return items


def _each(items: list[object], parse: Callable[[Json], None], skipped: Counter[str]) -> None:
    """Parses every item; counts those that are skipped, by reason."""
    for item in items:
        try:
            if item is None:
                raise _Skip("null_item")
            parse(_object(item))
        except _Skip as skip:
            skipped[str(skip)] += 1


def _track(value: object, texts: Texts, without_id: str) -> tuple[Track, tuple[Artist, ...]]:
    """The track under the id it was sent with (relinked or not), and its artists, primary first."""
    sent = _object(value)
    track_id = _id(sent, missing=without_id)
    # An artist without an id is one that Spotify does not know; the others remain.
    known = [artist for artist in read_objects(sent.get("artists")) if artist.get("id") is not None]
    if not known:
        raise _Skip("no_artist")
    artists = tuple(_artist(artist, texts) for artist in known)
    duration_ms = read_integer(sent.get("duration_ms"), 0, _LONGEST_MS)
    if duration_ms is None:
        raise _Skip("bad_item")
    album = read_object(sent.get("album"))
    track = Track(
        spotify_id=track_id,
        name=_name(sent, texts),
        duration_ms=duration_ms if 0 < duration_ms <= _LONGEST_TRACK_MS else None,
        artist_ids=tuple(dict.fromkeys(artist.spotify_id for artist in artists)),
        album_id=read_id(album.get("id")),
        album_name=texts.read(album.get("name")),
        release_date=texts.read(album.get("release_date")),
        popularity=read_integer(sent.get("popularity"), 0, 100),
        isrc=read_id(read_object(sent.get("external_ids")).get("isrc")),
    )
    return track, artists


def _artist(sent: Json, texts: Texts) -> Artist:
    genres = sent.get("genres")
    return Artist(
        spotify_id=_id(sent, missing="no_id"),
        name=_name(sent, texts),
        genres=tuple(_genres(genres, texts)) if isinstance(genres, list) else None,
        popularity=read_integer(sent.get("popularity"), 0, 100),
        image_url=read_image(sent.get("images")),
    )


def _genres(genres: list[object], texts: Texts) -> Iterator[str]:
    return filter(None, (texts.read(genre) for genre in genres))


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise _Skip("bad_item")
    return value


def _id(sent: Json, missing: str) -> str:
    if sent.get("id") is None:
        raise _Skip(missing)
    spotify_id = read_id(sent["id"])
    if spotify_id is None:
        raise _Skip("bad_item")
    return spotify_id


def _name(sent: Json, texts: Texts) -> str:
    name = texts.read(sent.get("name"))
    if name is None:
        raise _Skip("bad_item")
    return name if name.strip() else ""


def _collect(known: dict[str, Catalogued], values: Iterable[Catalogued]) -> None:
    """Keeps the first value per id: items further up on the page are newer."""
    for value in values:
        known.setdefault(value.spotify_id, value)


def _counts(skipped: Counter[str], texts: Texts) -> dict[str, int]:
    return dict(skipped) | ({"cleaned_text": texts.cleaned} if texts.cleaned else {})
