"""Artists and tracks: facts about Spotify's catalogue, shared by all users."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select, text

from spotify_pipeline.domain.listening.exported import ExportedTrack
from spotify_pipeline.domain.model import Artist, Track
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import Row, Written, any_of, as_row, upsert_changed


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
        # The artist's name was that of an export: now the ids of the artists are known.
        [{**row, "artist_name": None} for row in _merged(tracks)],
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


_SAVE_NAMED_ARTISTS = text("""
INSERT INTO artists (spotify_id, name)
SELECT * FROM unnest(cast(:ids AS text[]), cast(:names AS text[])) AS g (id, name)
ORDER BY g.id
ON CONFLICT DO NOTHING
""")

_SAVE_EXPORTED_TRACKS = text("""
INSERT INTO tracks AS k (spotify_id, name, artist_name, album_name, artist_ids)
SELECT g.track_id, g.name, g.artist_name, g.album_name, ARRAY[g.artist_id]
FROM json_to_recordset(cast(:tracks AS json)) AS g
    (track_id text, name text, artist_name text, album_name text, artist_id text)
ORDER BY g.track_id
ON CONFLICT (spotify_id) DO UPDATE SET
    name = CASE WHEN k.artist_name IS NULL AND k.name <> '' THEN k.name ELSE excluded.name END,
    artist_name = CASE WHEN k.artist_name IS NOT NULL THEN excluded.artist_name END,
    album_name = CASE
        WHEN k.artist_name IS NULL AND k.album_name IS NOT NULL THEN k.album_name
        ELSE excluded.album_name
    END,
    artist_ids = CASE WHEN k.artist_name IS NULL THEN k.artist_ids ELSE excluded.artist_ids END
WHERE CASE
    WHEN k.artist_name IS NULL THEN
        k.name = '' AND excluded.name <> ''
        OR k.album_name IS NULL AND excluded.album_name IS NOT NULL
    ELSE
        (k.name COLLATE "C", k.artist_name COLLATE "C", coalesce(k.album_name, '') COLLATE "C")
        < (excluded.name, excluded.artist_name, coalesce(excluded.album_name, ''))
END
""")


def save_exported_tracks(conn: Connection, tracks: Sequence[ExportedTrack]) -> None:
    """Store what exports say of tracks, and an artist of each name.

    Values of the API stay; of two exports the greater names stay, so that their order does not
    matter. Sorted by id, so that two writers of the catalogue cannot deadlock.
    """
    artists = {track.artist_id: track.artist_name for track in tracks}
    conn.execute(_SAVE_NAMED_ARTISTS, {"ids": list(artists), "names": list(artists.values())})
    # The driver writes arrays of text four times as slowly as JSON.
    rows = [{**as_row(track), "artist_id": track.artist_id} for track in tracks]
    conn.execute(_SAVE_EXPORTED_TRACKS, {"tracks": json.dumps(rows, ensure_ascii=False)})


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
