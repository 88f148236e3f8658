"""Exports everything that is stored about one user, table by table, and their plays alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Select, Table, collate, func, or_, select

from spotify_pipeline.domain.model import COUNTED_FROM_MS, HeardPlay
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.listened_time import plays_heard

# Secrets of the connection, and columns of the machinery: not data about the user.
KEPT_BACK = {
    "user_tokens": ("sealed_refresh_token", "sealed_access_token", "key_id"),
    "sync_state": ("lease_id", "lease_until"),
}
AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class ExportedTable:
    """A table's rows about the user; `columns` are pairs of a name and its comment."""

    name: str
    meaning: str
    columns: Sequence[tuple[str, str]]
    rows: Iterator[Sequence[Any]]


def export_user(conn: Connection, user_id: str) -> Iterator[ExportedTable]:
    """Each table about the user, with all their rows in the order of its primary key.

    Read one table to its end before the next. They are one snapshot if the transaction is
    REPEATABLE READ. Tracks and artists are those in the user's plays and lists.
    """
    for table in t.metadata.sorted_tables:
        if "user_id" in table.c and table is not t.forgotten:
            yield _exported(conn, table, select(table).where(table.c.user_id == user_id))
    plays, top = t.plays.c, t.user_top_tracks.c
    theirs = t.tracks.c.spotify_id.in_(
        select(plays.track_id)
        .where(plays.user_id == user_id)
        .union(
            select(top.spotify_id).where(top.user_id == user_id),
            _history(t.top_tracks_history, user_id),
        )
    )
    yield _exported(conn, t.tracks, select(t.tracks).where(theirs))
    artist = t.user_top_artists.c
    named = select(func.unnest(t.tracks.c.artist_ids)).where(theirs)
    yield _exported(
        conn,
        t.artists,
        select(t.artists).where(
            or_(
                t.artists.c.spotify_id.in_(named),
                t.artists.c.spotify_id.in_(
                    select(artist.spotify_id)
                    .where(artist.user_id == user_id)
                    .union(_history(t.top_artists_history, user_id))
                ),
            )
        ),
    )


def read_heard(conn: Connection, user_id: str) -> Iterator[HeardPlay]:
    """All plays of a user in the order of their end, streamed; the artist is the play's primary."""
    p, a = t.plays, t.artists
    heard = (
        plays_heard(p.c.user_id == user_id)
        .add_columns(p.c.track_id, p.c.artist_id)
        .subquery("heard")
    )
    artist_id = func.coalesce(heard.c.artist_id, t.tracks.c.artist_ids[1])
    rows = conn.execution_options(yield_per=AT_ONCE).execute(
        select(
            heard.c.played_at,
            heard.c.listened_ms,
            or_(heard.c.source == "api", heard.c.ms_played >= COUNTED_FROM_MS),
            heard.c.track_id,
            t.tracks.c.name,
            func.coalesce(a.c.name, ""),
            t.tracks.c.album_name,
            t.tracks.c.duration_ms,
            t.tracks.c.isrc,
        )
        .join_from(heard, t.tracks, t.tracks.c.spotify_id == heard.c.track_id)
        .outerjoin(a, a.c.spotify_id == artist_id)
        .order_by(heard.c.played_at, collate(heard.c.track_id, "C"))
    )
    return (HeardPlay(*row) for row in rows)


def _history(table: Table, user_id: str) -> Select[Any]:
    return select(table.c.spotify_id).where(table.c.user_id == user_id)


def _exported(conn: Connection, table: Table, statement: Select[Any]) -> ExportedTable:
    hidden = KEPT_BACK.get(table.name, ())
    columns: list[Column[Any]] = [column for column in table.c if column.name not in hidden]
    rows = conn.execution_options(yield_per=AT_ONCE).execute(
        statement.with_only_columns(*columns).order_by(*table.primary_key.columns)
    )
    return ExportedTable(
        table.name,
        table.comment or "",
        [(column.name, column.comment or "") for column in columns],
        iter(rows),
    )
