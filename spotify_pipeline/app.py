"""The SQL contract as typed functions, for apps: a SQLAlchemy connection in, frozen values out.

    with engine.begin() as conn:
        status = sync_status(conn, "mira")

Needs the rights of the app's role, the standard library and SQLAlchemy with psycopg, and nothing
else of this package. Every instant is aware. A function raises Refused when a rule of the database
refuses the call; the transaction then has to be rolled back, which leaving `engine.begin()` does.
An invalid argument, such as an unknown time zone, is a bug of the app and raises DBAPIError with
SQLSTATE 22023.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

UNKNOWN_USER, RECONNECT, TOO_SOON = "SP404", "SP409", "SP429"
ANOTHER_ACCOUNT, BAD_NAME = "SP403", "SP422"
# Columns of music_personality_history that are no metrics.
_NO_METRICS = {
    *("user_id", "month", "window_start", "window_end", "play_count"),
    *("reasons", "definition_version", "computed_at"),
}
TOO_LARGE, BUSY = "SP413", "SP423"
_REFUSALS = (
    UNKNOWN_USER,
    RECONNECT,
    TOO_SOON,
    ANOTHER_ACCOUNT,
    BAD_NAME,
    TOO_LARGE,
    BUSY,
)


class Refused(Exception):
    """The database refuses the call; the message is for the user.

    `sqlstate` is SP404 (no such user or import), SP409 (reconnect Spotify), SP429 (too soon:
    `retry_at` says when it is allowed again), SP403 (another Spotify account's user), SP422 (a name
    that cannot be had), SP413 (more rows than an import takes) or SP423 (another import of the user
    is not finished).
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


@dataclass(frozen=True, slots=True)
class PersonalityMonth:
    """The metrics of a month's last 28 local days that need no top list.

    A metric that is None has its reason in `reasons`.
    """

    month: date
    play_count: int
    metrics: Mapping[str, float | int | None]
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UserSettings:
    """The user's settings, and how much is stored; a new `session_key` ends all sessions.

    `known_from`: since when plays are known; None: nothing was collected yet.
    """

    display_name: str | None
    timezone: str
    profile_name: str | None
    is_public: bool
    share_expires_at: datetime | None
    session_key: UUID
    plays: int
    days: int
    known_from: datetime | None
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile that a visitor may see. `version` changes with every sync and every setting."""

    user_id: str
    display_name: str | None
    timezone: str
    version: str


@dataclass(frozen=True, slots=True)
class Play:
    """A stored play; `played_at` is its end."""

    played_at: datetime
    track_id: str
    track_name: str
    artist_id: str | None
    artist_name: str | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A line of a ranking of stored plays; `artist_name` is None for an artist."""

    rank: int
    spotify_id: str
    name: str
    artist_name: str | None
    plays: int
    listened_ms: int


@dataclass(frozen=True, slots=True)
class Discovery:
    """An artist of whom no earlier play is stored; `total` counts all such artists."""

    spotify_id: str
    name: str
    plays: int
    first_played_at: datetime
    total: int


class HistoryRow(Protocol):
    """A row of a user's own history that is a play.

    `ended_at` is its end to the second, `ms_played` 1 to a day, `track_id` None in account data,
    `offline_started_at` when a play without a connection began. Instants are aware.
    """

    @property
    def ended_at(self) -> datetime: ...
    @property
    def ms_played(self) -> int: ...
    @property
    def track_id(self) -> str | None: ...
    @property
    def track_name(self) -> str: ...
    @property
    def artist_name(self) -> str: ...
    @property
    def album_name(self) -> str | None: ...
    @property
    def offline_started_at(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """A file of a history, when all its rows are read.

    `source` is "extended" or "account". `counts` has the rows that are no plays, by fate.
    `first_at` and `last_at` span all its rows that have a time. `malformed` has index and reason of
    the first hundred malformed rows.
    """

    name: str
    source: str
    counts: Mapping[str, int]
    first_at: datetime | None
    last_at: datetime | None
    malformed: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True, slots=True)
class HistoryReceipt:
    """The result of an import, or its progress.

    `status` is open, closed (it waits for the pipeline), succeeded or failed (`error_message` says
    why). `fates` sum up to `rows_read` once it has succeeded. `files` are objects with name,
    source, rows_read, fates, first_at, last_at (RFC 3339) and malformed.
    """

    import_id: int
    status: str
    started_at: datetime
    finished_at: datetime | None
    error_message: str | None
    rows_read: int
    fates: Mapping[str, int]
    first_at: datetime | None
    last_at: datetime | None
    files: Sequence[Mapping[str, Any]]


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
    """Exactly `days` local days (1 to 10,000), oldest first, the last is today. Raises Refused."""
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


def first_day(conn: Connection, user_id: str) -> date | None:
    """The first local day with a stored play; None: no play is stored."""
    query = "SELECT min(date) FROM spotify_pipeline.daily_listening WHERE user_id = :user_id"
    found: date | None = conn.execute(text(query), {"user_id": user_id}).scalar_one()
    return found


def incomplete_days(conn: Connection, user_id: str, days: int) -> dict[date, str]:
    """Why days of listening_history are not complete, as a word that docs/app.md explains."""
    rows = conn.execute(
        text(
            "SELECT date, reason"
            " FROM spotify_pipeline.incomplete_days(:user_id, CAST(:days AS integer))"
        ),
        {"user_id": user_id, "days": days},
    )
    return {row[0]: row[1] for row in rows}


def top_artists(conn: Connection, user_id: str, time_range: str) -> list[TopArtist]:
    """The list of short_term, medium_term or long_term, by rank; empty: never received."""
    key = {"user_id": user_id, "time_range": time_range}
    return [TopArtist(*row) for row in _rows(conn, f"user_top_artists {_LIST}", TopArtist, **key)]


def top_tracks(conn: Connection, user_id: str, time_range: str) -> list[TopTrack]:
    """The list of short_term, medium_term or long_term, by rank; empty: never received."""
    key = {"user_id": user_id, "time_range": time_range}
    return [TopTrack(*row) for row in _rows(conn, f"user_top_tracks {_LIST}", TopTrack, **key)]


def music_personality(conn: Connection, user_id: str) -> Personality | None:
    """The user's personality; None: none has been computed yet."""
    query = text("SELECT * FROM spotify_pipeline.music_personality WHERE user_id = :user_id")
    row = conn.execute(query, {"user_id": user_id}).mappings().one_or_none()
    if row is None:
        return None
    columns = {name: value for name, value in row.items() if name != "user_id"}
    known = {name: columns.pop(name) for name in Personality.__slots__ if name in columns}
    return Personality(metrics=columns, **known)


def personality_months(conn: Connection, user_id: str) -> list[PersonalityMonth]:
    """The last 12 stored months, oldest first; a month is stored when it is over."""
    query = text(
        "SELECT * FROM spotify_pipeline.music_personality_history WHERE user_id = :user_id"
        " ORDER BY month DESC LIMIT 12"
    )
    months = []
    for row in conn.execute(query, {"user_id": user_id}).mappings():
        metrics = {name: row[name] for name in row if name not in _NO_METRICS}
        months.append(PersonalityMonth(row["month"], row["play_count"], metrics, row["reasons"]))
    return months[::-1]


def artist_names(conn: Connection, artist_ids: Sequence[str]) -> dict[str, str]:
    """The names of known artists by id."""
    query = text(
        "SELECT spotify_id, name FROM spotify_pipeline.artists WHERE spotify_id = ANY (:ids)"
    )
    return {row[0]: row[1] for row in conn.execute(query, {"ids": list(artist_ids)})}


def time_zones(conn: Connection) -> list[str]:
    """The names of all time zones that register_user takes."""
    query = text("SELECT name FROM spotify_pipeline.time_zones ORDER BY name")
    return [row[0] for row in conn.execute(query)]


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


def sign_in_user(
    conn: Connection, account_id: str, spotify_user_id: str, display_name: str | None
) -> str:
    """The user of a Spotify account, registered if there is none. Raises Refused, SP403.

    The ids are what /v1/me answered for a token of the account, never what a browser sent.
    """
    row = _call(
        conn,
        "SELECT spotify_pipeline.sign_in_user(:account_id, :spotify_user_id, :display_name)",
        account_id=account_id,
        spotify_user_id=spotify_user_id,
        display_name=display_name,
    )
    return str(row[0])


def sealing_key(conn: Connection) -> tuple[str, bytes] | None:
    """The id and the 32 bytes of the key to seal refresh tokens with; None: not published yet."""
    row = conn.execute(
        text("SELECT key_id, public_key FROM spotify_pipeline.sealing_key()")
    ).one_or_none()
    return None if row is None else (row[0], bytes(row[1]))


def user_settings(conn: Connection, user_id: str) -> UserSettings | None:
    """The settings of a user who has signed in; None: there is no such user."""
    row = _rows(conn, "user_settings(:user_id)", UserSettings, user_id=user_id).one_or_none()
    return row and UserSettings(*row)


def end_sessions(conn: Connection, user_id: str) -> None:
    """End every session of the user."""
    _call(conn, "SELECT spotify_pipeline.end_sessions(:user_id)", user_id=user_id)


def set_profile(conn: Connection, user_id: str, name: str | None, is_public: bool) -> None:
    """Set the profile's name (None: none) and who sees it. Raises Refused, SP422 or SP404."""
    _call(
        conn,
        "SELECT spotify_pipeline.set_profile(:user_id, :name, :is_public)",
        user_id=user_id,
        name=name,
        is_public=is_public,
    )


def share_profile(
    conn: Connection, user_id: str, digest: bytes | None, expires_at: datetime | None
) -> None:
    """Make the link whose token has this SHA-256 the user's share link; None revokes it."""
    _call(
        conn,
        "SELECT spotify_pipeline.share_profile(:user_id, :digest, :expires_at)",
        user_id=user_id,
        digest=digest,
        expires_at=expires_at,
    )


def find_profile(conn: Connection, name: str | None, digest: bytes | None = None) -> Profile | None:
    """A public profile by its name, or one by its share link; None: no visitor may see one."""
    row = _rows(conn, "find_profile(:name, :digest)", Profile, name=name, digest=digest).first()
    return row and Profile(*row)


def recent_plays(conn: Connection, user_id: str, plays: int) -> list[Play]:
    """The latest plays, at most 50, newest first."""
    rows = _rows(conn, "recent_plays(:user_id, :plays)", Play, user_id=user_id, plays=plays)
    return [Play(*row) for row in rows]


def listening_quarters(conn: Connection, user_id: str, days: int) -> list[tuple[int, int]]:
    """(quarter of an hour since 1970, milliseconds heard) of the last days, at most 366."""
    rows = conn.execute(
        text(
            "SELECT quarter, listened_ms"
            " FROM spotify_pipeline.listening_quarters(:user_id, CAST(:days AS integer))"
        ),
        {"user_id": user_id, "days": days},
    )
    return [(row[0], row[1]) for row in rows]


def listening_top(
    conn: Connection, user_id: str, kind: str, first: date, last: date, length: int
) -> list[Ranked]:
    """The most played "tracks" or "artists" of the local days from `first` to `last`."""
    rows = _rows(
        conn,
        "listening_top(:user_id, :kind, :first, :last, CAST(:length AS integer))",
        Ranked,
        user_id=user_id,
        kind=kind,
        first=first,
        last=last,
        length=length,
    )
    return [Ranked(*row) for row in rows]


def listening_discoveries(
    conn: Connection, user_id: str, first: date, last: date, length: int
) -> list[Discovery] | None:
    """The artists first heard in these local days; None: nothing older is stored to compare."""
    rows = _rows(
        conn,
        "listening_discoveries(:user_id, :first, :last, CAST(:length AS integer))",
        Discovery,
        user_id=user_id,
        first=first,
        last=last,
        length=length,
    )
    return [Discovery(*row) for row in rows] or None


def top_ranks(
    conn: Connection, user_id: str, days_ago: int
) -> dict[tuple[str, str], dict[str, int]]:
    """Ranks by id in the lists of so many days ago; keys are like ("artists", "short_term")."""
    rows = conn.execute(
        text(
            "SELECT kind, time_range, spotify_id, rank"
            " FROM spotify_pipeline.top_ranks(:user_id, CAST(:days_ago AS integer))"
        ),
        {"user_id": user_id, "days_ago": days_ago},
    )
    lists: dict[tuple[str, str], dict[str, int]] = {}
    for kind, time_range, spotify_id, rank in rows:
        lists.setdefault((kind, time_range), {})[spotify_id] = rank
    return lists


def open_gaps(conn: Connection, user_id: str) -> list[tuple[datetime, datetime]]:
    """Times in which plays may be missing, latest first."""
    query = text("SELECT gap_start, gap_end FROM spotify_pipeline.open_gaps(:user_id)")
    return [(row[0], row[1]) for row in conn.execute(query, {"user_id": user_id})]


def open_history_import(conn: Connection, user_id: str) -> int:
    """Begin an import of the user's own history; returns its number. Raises Refused, SP423.

    An earlier one of the user that was not closed is deleted.
    """
    row = _call(conn, "SELECT spotify_pipeline.open_history_import(:user_id)", user_id=user_id)
    return int(row[0])


def add_history_rows(
    conn: Connection, import_id: int, number: int, file: int, rows: Iterable[HistoryRow]
) -> None:
    """Add at most 5,000 rows of one file; the same number again replaces them. Raises Refused.

    `number` is that of the batch in the import, `file` the position of the rows' file, from 0.
    """
    _call(
        conn,
        "SELECT spotify_pipeline.add_history_rows(:import_id, CAST(:number AS integer),"
        " CAST(:file AS integer), CAST(:rows AS jsonb))",
        import_id=import_id,
        number=number,
        file=file,
        rows=json.dumps(
            [
                {
                    "ended_at": _rfc3339(row.ended_at),
                    "ms_played": row.ms_played,
                    "track_id": row.track_id,
                    "track_name": row.track_name,
                    "artist_name": row.artist_name,
                    "album_name": row.album_name,
                    "offline_started_at": _rfc3339(row.offline_started_at),
                }
                for row in rows
            ],
            ensure_ascii=False,
        ),
    )


def close_history_import(conn: Connection, import_id: int, files: Iterable[HistoryFile]) -> None:
    """End the upload: the pipeline imports it within seconds. Raises Refused."""
    _call(
        conn,
        "SELECT spotify_pipeline.close_history_import(:import_id, CAST(:files AS jsonb))",
        import_id=import_id,
        files=json.dumps(
            [
                {
                    "name": file.name,
                    "source": file.source,
                    "counts": dict(file.counts),
                    "first_at": _rfc3339(file.first_at),
                    "last_at": _rfc3339(file.last_at),
                    "malformed": list(file.malformed),
                }
                for file in files
            ],
            ensure_ascii=False,
        ),
    )


def discard_history_import(conn: Connection, import_id: int) -> None:
    """Delete an import that is not closed, with its rows."""
    _call(conn, "SELECT spotify_pipeline.discard_history_import(:import_id)", import_id=import_id)


def history_receipts(conn: Connection, user_id: str, imports: int = 1) -> list[HistoryReceipt]:
    """The latest imports of the user, newest first, at most 100."""
    rows = _rows(
        conn,
        "history_receipts(:user_id, CAST(:imports AS integer))",
        HistoryReceipt,
        user_id=user_id,
        imports=imports,
    )
    return [HistoryReceipt(*row) for row in rows]


def _rfc3339(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z") if instant else None


def export_rows(conn: Connection, user_id: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(table, row) of everything stored about the user but the plays; no secrets."""
    query = text("SELECT table_name, content FROM spotify_pipeline.export_rows(:user_id)")
    return [(row[0], row[1]) for row in conn.execute(query, {"user_id": user_id})]


def export_plays(
    conn: Connection, user_id: str, after: tuple[datetime, str] | None
) -> list[Mapping[str, Any]]:
    """The next 10,000 plays after (played_at, track_id), oldest first; None: from the beginning."""
    at, track_id = after or (None, None)
    rows = conn.execute(
        text("SELECT * FROM spotify_pipeline.export_plays(:user_id, :at, :track_id)"),
        {"user_id": user_id, "at": at, "track_id": track_id},
    )
    return [dict(row) for row in rows.mappings()]


_LIST = "WHERE user_id = :user_id AND time_range = :time_range ORDER BY rank"


def _rows(conn: Connection, source: str, shape: type, **parameters: Any) -> Any:
    """The rows of a function or table, with the columns of a dataclass in their order."""
    columns = ", ".join(shape.__slots__)  # type: ignore[attr-defined]
    return conn.execute(text(f"SELECT {columns} FROM spotify_pipeline.{source}"), parameters)  # noqa: S608


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
        if sqlstate not in _REFUSALS:
            raise
        detail = cause.diag.message_detail
        retry_at = datetime.fromisoformat(detail) if detail else None
        raise Refused(sqlstate, cause.diag.message_primary, retry_at) from None
