"""Artists and tracks: facts about Spotify's catalogue, shared by all users."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Table, select

from spotify_pipeline.domain.model import Artist, Track
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import Row, any_of, as_row
from spotify_pipeline.storage.postgres.upsert import Written, upsert_changed


def save_artists(conn: Connection, artists: Iterable[Artist]) -> Written:
    """Upsert artists. A value that a response leaves out or empties stays."""
    return upsert_changed(
        conn,
        t.artists,
        _merged(artists),
        keep_known=("name", "genres", "popularity", "image_url"),
    )


def save_tracks(conn: Connection, tracks: Iterable[Track]) -> Written:
    """Upsert tracks. A value that a response leaves out or empties stays."""
    return upsert_changed(
        conn,
        t.tracks,
        _merged(tracks),
        keep_known=(
            "name",
            "duration_ms",
            "album_id",
            "album_name",
            "release_date",
            "popularity",
            "isrc",
        ),
    )


def read_names(conn: Connection, table: Table, spotify_ids: Iterable[str]) -> dict[str, str]:
    """Names of these artists or tracks, by id; those without a name are left out."""
    c = table.c
    rows = conn.execute(
        select(c.spotify_id, c.name).where(any_of(c.spotify_id, spotify_ids), c.name != "")
    )
    return {row.spotify_id: row.name for row in rows}


def _merged(items: Iterable[Artist] | Iterable[Track]) -> list[Row]:
    """One row per id, with the last value of each field: some responses leave fields out."""
    rows: dict[str, dict[str, Any]] = {}
    for item in items:
        sent = as_row(item)
        row = rows.setdefault(item.spotify_id, dict(sent))
        row.update({name: value for name, value in sent.items() if value not in (None, "")})
    return list(rows.values())
