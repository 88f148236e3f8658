"""Artists and tracks: facts about Spotify's catalogue, shared by all users."""

from collections.abc import Iterable

from sqlalchemy import Connection

from spotify_pipeline.domain.model import Artist, Track
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.recordset import Row, as_row
from spotify_pipeline.storage.upsert import Written, upsert_changed


def save_artists(conn: Connection, artists: Iterable[Artist]) -> Written:
    """Insert new artists, update changed ones. What this answer leaves out stays as known."""
    known: dict[str, Artist] = {}
    for artist in artists:
        seen = known.get(artist.spotify_id)
        # Plays bring artists without picture and genres, top lists bring them with both.
        if seen is None or (artist.genres, artist.image_url) != (None, None):
            known[artist.spotify_id] = artist
    rows: list[Row] = [as_row(artist) for artist in known.values()]
    return upsert_changed(conn, t.artists, rows, keep_known=("genres", "popularity", "image_url"))


def save_tracks(conn: Connection, tracks: Iterable[Track]) -> Written:
    """Insert new tracks, update changed ones. What this answer leaves out stays as known."""
    rows: dict[str, Row] = {track.spotify_id: as_row(track) for track in tracks}
    return upsert_changed(
        conn,
        t.tracks,
        list(rows.values()),
        keep_known=("album_id", "album_name", "release_date", "popularity"),
    )
