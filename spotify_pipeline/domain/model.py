"""Spotify's responses as values: what the parser returns. Also Spotify's limits and names.

Times are aware datetimes in UTC. Ids are Spotify's ids as text. A field that Spotify did not send
is None; that is never the same as an empty list or a zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

TimeRange = Literal["short_term", "medium_term", "long_term"]
TIME_RANGES: tuple[TimeRange, ...] = ("short_term", "medium_term", "long_term")

# The permissions that a user is asked for, exactly these and no others.
SCOPES = ("user-read-recently-played", "user-top-read")

# Of the rules of daily_listening. Raise it with every change that can change a stored day: Dagster
# then shows which partitions to rebuild.
DAYS_VERSION = 2

# An export lists skips too; Spotify itself, and so its API, counts a play from 30 seconds on.
COUNTED_FROM_MS = 30_000
# Two plays that end closer than this are offline plays stamped at upload, or an echo: the time
# between them is not the time listened.
CAPPED_FROM_MS = 30_000


@dataclass(frozen=True, slots=True)
class Artist:
    """One artist. In development mode Spotify sends neither genres nor popularity."""

    spotify_id: str
    name: str
    genres: tuple[str, ...] | None = None
    popularity: int | None = None
    image_url: str | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """One track; `artist_ids[0]` is the primary artist. `release_date` is text as sent.

    Spotify sometimes sends emptied tracks: `name` is then "" and `duration_ms` None (sent as 0).
    """

    spotify_id: str
    name: str
    duration_ms: int | None
    artist_ids: tuple[str, ...]
    album_id: str | None = None
    album_name: str | None = None
    release_date: str | None = None
    popularity: int | None = None
    # The International Standard Recording Code: the same for all ids of a recording.
    isrc: str | None = None


@dataclass(frozen=True, slots=True)
class Play:
    """One play of a track; `played_at` is its end, UTC, to the millisecond."""

    played_at: datetime
    track_id: str
    context_uri: str | None = None


@dataclass(frozen=True, slots=True)
class HeardPlay:
    """A stored play with all that another program may want of it.

    `played_at` is its end, UTC. `listened_ms` is what was heard, else the estimate; 0 if neither is
    known. `counted`: the API lists it, or 30 s were heard. `offline_started_at` (UTC) is set for a
    play without a connection whose end may be its upload.
    """

    played_at: datetime
    listened_ms: int
    counted: bool
    track_id: str
    track_name: str
    artist_name: str
    album_name: str | None
    duration_ms: int | None
    isrc: str | None
    offline_started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PlaysPage:
    """One recently-played page.

    `item_times` are the `played_at` of all raw items, also of those skipped, newest first.
    `skipped` counts items that are no play, by reason. `has_more` is False when `next` was null.
    `items` counts the raw items: only 0 means that Spotify sent an empty page.
    """

    plays: tuple[Play, ...]
    tracks: tuple[Track, ...]
    artists: tuple[Artist, ...]
    item_times: tuple[datetime, ...]
    has_more: bool
    items: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopArtists:
    """A user's top artists of one time range, best first."""

    time_range: TimeRange
    artists: tuple[Artist, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopTrack:
    """One row of a top track list, as it is displayed."""

    spotify_id: str
    name: str
    artist_name: str
    album_name: str | None
    image_url: str | None
    preview_url: str | None


@dataclass(frozen=True, slots=True)
class TopTracks:
    """A user's top tracks of one time range, best first, with their catalogue rows."""

    time_range: TimeRange
    entries: tuple[TopTrack, ...]
    tracks: tuple[Track, ...]
    artists: tuple[Artist, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


# Fields that Spotify stopped sending to some apps; None in an item means that it was left out.
OPTIONAL_FIELDS = ("genres", "popularity", "image_url", "album_id", "album_name", "release_date")


def not_provided(items: Sequence[Artist] | Sequence[Track]) -> tuple[str, ...]:
    """The optional fields that all these items lack: left out by Spotify, not unknown to it."""
    return tuple(
        name
        for name in OPTIONAL_FIELDS
        if items and hasattr(items[0], name) and all(getattr(item, name) is None for item in items)
    )


@dataclass(frozen=True, slots=True)
class Profile:
    """The Spotify account that a token belongs to.

    `account_id` is immutable; Spotify sends it since May 2026.
    """

    spotify_user_id: str
    account_id: str | None
    display_name: str | None

    @property
    def account(self) -> str:
        """Identifies the account: the account id or, where none was sent, Spotify's user id."""
        return self.account_id or self.spotify_user_id

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id under which the account may be stored: both, as far as they were sent."""
        return tuple(filter(None, (self.account_id, self.spotify_user_id)))
