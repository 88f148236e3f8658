"""The SQL contract as typed functions, for apps: a SQLAlchemy connection in, frozen values out.

    with engine.begin() as conn:
        status = sync_status(conn, "mira")

Needs the rights of the app's role, the standard library and SQLAlchemy with psycopg, and nothing
else of this package. Every instant is aware. A function raises Refused when a rule of the database
refuses the call; the transaction then has to be rolled back, which leaving `engine.begin()` does.
An invalid argument, such as an unknown time zone, is a bug of the app and raises DBAPIError with
SQLSTATE 22023.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

UNKNOWN_USER, RECONNECT, TOO_SOON = "SP404", "SP409", "SP429"


class Refused(Exception):
    """The database refuses the call; the message is for the user.

    `sqlstate` is SP404 (no such user), SP409 (reconnect Spotify) or SP429 (too soon: `retry_at`
    says when it is allowed again).
    """

    def __init__(self, sqlstate: str, message: str, retry_at: datetime | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.retry_at = retry_at


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """The new or the already open request. `retry_at`: until then no call may be made."""

    request_id: int
    status: str
    retry_at: datetime | None
    message: str


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """A row of sync_status. `next_allowed_at` of None: a request would be accepted now."""

    user_id: str
    connection: str
    state: str
    last_synced_at: datetime | None
    next_allowed_at: datetime | None
    request_id: int | None
    request_status: str | None
    error_code: str | None
    error_message: str | None
    reconnect_by: datetime | None
    blocked_until: datetime | None


@dataclass(frozen=True, slots=True)
class Day:
    """A local day. `minutes` is 0 only where `completeness` is complete; None: nothing is known."""

    date: date
    minutes: int | None
    plays: int | None
    top_track_id: str | None
    top_track_name: str | None
    top_artist_id: str | None
    top_artist_name: str | None
    completeness: str


@dataclass(frozen=True, slots=True)
class TopArtist:
    """A line of the list; `genres` and `popularity` are None where Spotify does not say."""

    rank: int
    spotify_id: str
    name: str
    genres: Sequence[str] | None
    popularity: int | None
    image_url: str | None
    fetched_at: datetime


@dataclass(frozen=True, slots=True)
class TopTrack:
    """A line of the list."""

    rank: int
    spotify_id: str
    name: str
    artist_name: str
    album_name: str | None
    image_url: str | None
    preview_url: str | None
    fetched_at: datetime


@dataclass(frozen=True, slots=True)
class Personality:
    """The last 28 local days. A metric that is None has its reason in `reasons`."""

    window_start: date
    window_end: date
    play_count: int
    metrics: Mapping[str, float | int | str | None]
    reasons: Mapping[str, str]
    tags: Sequence[str]
    definition_version: int
    computed_at: datetime


def request_sync(conn: Connection, user_id: str) -> SyncRequest:
    """Request a sync; while a request is open, returns that one. Raises Refused."""
    row = _call(
        conn,
        "SELECT request_id, status, retry_at, message FROM spotify_pipeline.request_sync(:user_id)",
        user_id=user_id,
    )
    return SyncRequest(*row)


def sync_status(conn: Connection, user_id: str) -> SyncStatus:
    """The state of the user's syncs. Raises Refused for an unknown user."""
    query = text(
        "SELECT user_id, connection, state, last_synced_at, next_allowed_at, request_id,"
        " request_status, error_code, error_message, reconnect_by, blocked_until"
        " FROM spotify_pipeline.sync_status WHERE user_id = :user_id"
    )
    row = conn.execute(query, {"user_id": user_id}).one_or_none()
    if row is None:
        raise Refused(UNKNOWN_USER, "There is no such user.")
    return SyncStatus(*row)


def listening_history(conn: Connection, user_id: str, days: int) -> list[Day]:
    """Exactly `days` local days (1 to 3660), oldest first, the last is today. Raises Refused."""
    with _refusals():
        rows = conn.execute(
            text(
                "SELECT date, minutes, plays, top_track_id, top_track_name, top_artist_id,"
                " top_artist_name, completeness"
                " FROM spotify_pipeline.listening_history(:user_id, CAST(:days AS integer))"
            ),
            {"user_id": user_id, "days": days},
        )
        return [Day(*row) for row in rows]


def top_artists(conn: Connection, user_id: str, time_range: str) -> list[TopArtist]:
    """The list of short_term, medium_term or long_term, by rank; empty: never received."""
    rows = conn.execute(
        text(
            "SELECT rank, spotify_id, name, genres, popularity, image_url, fetched_at"
            " FROM spotify_pipeline.user_top_artists"
            " WHERE user_id = :user_id AND time_range = :time_range ORDER BY rank"
        ),
        {"user_id": user_id, "time_range": time_range},
    )
    return [TopArtist(*row) for row in rows]


def top_tracks(conn: Connection, user_id: str, time_range: str) -> list[TopTrack]:
    """The list of short_term, medium_term or long_term, by rank; empty: never received."""
    rows = conn.execute(
        text(
            "SELECT rank, spotify_id, name, artist_name, album_name, image_url, preview_url,"
            " fetched_at FROM spotify_pipeline.user_top_tracks"
            " WHERE user_id = :user_id AND time_range = :time_range ORDER BY rank"
        ),
        {"user_id": user_id, "time_range": time_range},
    )
    return [TopTrack(*row) for row in rows]


def music_personality(conn: Connection, user_id: str) -> Personality | None:
    """The user's personality; None: none has been computed yet."""
    query = text("SELECT * FROM spotify_pipeline.music_personality WHERE user_id = :user_id")
    row = conn.execute(query, {"user_id": user_id}).mappings().one_or_none()
    if row is None:
        return None
    columns = {name: value for name, value in row.items() if name != "user_id"}
    known = {name: columns.pop(name) for name in Personality.__slots__ if name in columns}
    return Personality(metrics=columns, **known)


def register_user(
    conn: Connection, user_id: str, timezone: str | None = None, display_name: str | None = None
) -> None:
    """Create the user (by default in UTC) or update what is given; None keeps a known value."""
    _call(
        conn,
        "SELECT spotify_pipeline.register_user(:user_id, :timezone, :display_name)",
        user_id=user_id,
        timezone=timezone,
        display_name=display_name,
    )


def connect_user(
    conn: Connection,
    user_id: str,
    *,
    client_id: str,
    sealed_refresh_token: bytes,
    key_id: str,
    scopes: Sequence[str],
    authorized_at: datetime,
) -> None:
    """Store the connection of a registered user. Raises Refused for an unknown user."""
    _call(
        conn,
        "SELECT spotify_pipeline.connect_user(:user_id, :client_id, :sealed_refresh_token, :key_id,"
        " :scopes, :authorized_at)",
        user_id=user_id,
        client_id=client_id,
        sealed_refresh_token=sealed_refresh_token,
        key_id=key_id,
        scopes=list(scopes),
        authorized_at=authorized_at,
    )


def disconnect_user(conn: Connection, user_id: str) -> None:
    """Delete the user's token and close an open request; plays stay. Raises Refused."""
    _call(conn, "SELECT spotify_pipeline.disconnect_user(:user_id)", user_id=user_id)


def forget_user(conn: Connection, user_id: str) -> None:
    """Delete every row of the user. Raises Refused, SP404, for an unknown user."""
    _call(conn, "SELECT spotify_pipeline.forget_user(:user_id)", user_id=user_id)


def _call(conn: Connection, query: str, **parameters: Any) -> Sequence[Any]:
    with _refusals():
        return conn.execute(text(query), parameters).one()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        cause: Any = error.orig
        sqlstate = getattr(cause, "sqlstate", None)
        if sqlstate not in (UNKNOWN_USER, RECONNECT, TOO_SOON):
            raise
        detail = cause.diag.message_detail
        retry_at = datetime.fromisoformat(detail) if detail else None
        raise Refused(sqlstate, cause.diag.message_primary, retry_at) from None
