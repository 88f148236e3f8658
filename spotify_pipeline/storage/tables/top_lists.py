"""Top lists: the present lines, when each list was received, and every list as it stood.

Apps and analysts read views of them, line by line. The ids of tracks and artists are no foreign
keys: they come from the same response, and a foreign key would make thousands of writers lock the
catalogue.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ARRAY, Column, SmallInteger, Table, Text

from spotify_pipeline.domain.model import TIME_RANGES
from spotify_pipeline.storage.tables.base import (
    Instant,
    described,
    metadata,
    one_of,
    optional,
    rule,
    user_column,
    views,
)


def _time_range() -> Column[str]:
    return described(
        "time_range",
        Text,
        "short_term (about 4 weeks), medium_term (6 months), long_term (about 1 year).",
        primary_key=True,
    )


def _rank() -> Column[int]:
    return described(
        "rank",
        SmallInteger,
        "Position in Spotify's list; 1 is the first.",
        primary_key=True,
        autoincrement=False,
    )


KINDS = ("artists", "tracks")
_FETCHED_AT = "When the list was last received."

top_lists = Table(
    "top_lists",
    metadata,
    user_column(primary_key=True),
    described("kind", Text, "artists or tracks.", primary_key=True),
    _time_range(),
    described("fetched_at", Instant, _FETCHED_AT),
    one_of("kind", KINDS),
    one_of("time_range", TIME_RANGES),
    comment="One row per top list that was received; an unchanged list is written only here.",
)

_ARTIST = (
    ("spotify_id", Text(), False, "Spotify's id of the artist."),
    ("name", Text(), False, "Name as Spotify shows it."),
    ("genres", ARRAY(Text), True, "Genre tags; NULL when not said."),
    ("popularity", SmallInteger(), True, "0 to 100; NULL when not said."),
    ("image_url", Text(), True, "A picture of the artist."),
)
_TRACK = (
    ("spotify_id", Text(), False, "Spotify's id of the track."),
    ("name", Text(), False, "Title as Spotify shows it."),
    ("artist_name", Text(), False, "Name of the primary artist."),
    ("album_name", Text(), True, "Title of the album."),
    ("image_url", Text(), True, "The album's cover."),
    ("preview_url", Text(), True, "A 30-second excerpt; Spotify sends none since 2024."),
)


def _columns(fields: Iterable[tuple[str, Any, bool, str]]) -> list[Column[Any]]:
    return [
        Column(name, type_, nullable=nullable, comment=comment)
        for name, type_, nullable, comment in fields
    ]


top_list_artists = Table(
    "top_list_artists",
    metadata,
    user_column(primary_key=True),
    _time_range(),
    _rank(),
    *_columns(_ARTIST),
    one_of("time_range", TIME_RANGES),
    rule("rank", "rank BETWEEN 1 AND 50"),
    rule("popularity", "popularity BETWEEN 0 AND 100"),
    comment="One row per user, time range and rank: the top artists now.",
)

top_list_tracks = Table(
    "top_list_tracks",
    metadata,
    user_column(primary_key=True),
    _time_range(),
    _rank(),
    *_columns(_TRACK),
    one_of("time_range", TIME_RANGES),
    rule("rank", "rank BETWEEN 1 AND 50"),
    comment="One row per user, time range and rank: the top tracks now.",
)

_VALID_FROM = "When the list was first received."
_VALID_TO = "When another list replaced it; NULL: it is the present one."

top_list_versions = Table(
    "top_list_versions",
    metadata,
    user_column(primary_key=True),
    described("kind", Text, "artists or tracks.", primary_key=True),
    _time_range(),
    described("valid_from", Instant, _VALID_FROM, primary_key=True),
    optional("valid_to", Instant, _VALID_TO),
    described("spotify_ids", ARRAY(Text), "Spotify's ids, the first is rank 1."),
    one_of("kind", KINDS),
    one_of("time_range", TIME_RANGES),
    rule("spotify_ids", "cardinality(spotify_ids) BETWEEN 1 AND 50"),
    rule("interval", "valid_from < valid_to"),
    comment="One row per top list as it stood; a list that changed stays.",
)


def _view(name: str, comment: str, *columns: Column[Any]) -> Table:
    """A view of `storage/sql/top_lists.sql`, to read from."""
    keys = (Column("user_id", Text, primary_key=True, comment="The user."), _time_range())
    return Table(name, views, *keys, *columns, comment=comment)


user_top_artists = _view(
    "user_top_artists",
    "One row per user, time range and rank: the top artists now.",
    *(_rank(), *_columns(_ARTIST), described("fetched_at", Instant, _FETCHED_AT)),
)
user_top_tracks = _view(
    "user_top_tracks",
    "One row per user, time range and rank: the top tracks now.",
    *(_rank(), *_columns(_TRACK), described("fetched_at", Instant, _FETCHED_AT)),
)


def _history(kind: str, thing: str) -> Table:
    return _view(
        f"top_{kind}_history",
        f"One row per line of a top {thing} list as it stood; a list that changed stays.",
        described("valid_from", Instant, _VALID_FROM, primary_key=True),
        optional("valid_to", Instant, _VALID_TO),
        _rank(),
        described("spotify_id", Text, f"Spotify's id of the {thing}."),
    )


top_artists_history = _history("artists", "artist")
top_tracks_history = _history("tracks", "track")
