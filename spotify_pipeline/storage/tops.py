"""Top artists and tracks: the list as it stands, and the lists that stood before."""

from collections.abc import Sequence
from datetime import datetime

import pandas as pd
from sqlalchemy import Connection, Table, delete, select, update
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.model import TimeRange, TopArtists, TopTracks
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.upsert import Row, Written, upsert_changed


def replace_top_artists(
    conn: Connection, user_id: str, top: TopArtists, fetched_at: datetime
) -> tuple[int, Written]:
    """Make the stored list equal the fetched one; return its length and what was written.

    An empty answer keeps the rows and their fetched_at: Spotify sends one for accounts whose
    list it cannot compute, and an old list says more than none.
    """
    rows: list[Row] = [
        {
            "user_id": user_id,
            "time_range": top.time_range,
            "rank": rank,
            "spotify_id": artist.spotify_id,
            "name": artist.name,
            "genres": None if artist.genres is None else list(artist.genres),
            "popularity": artist.popularity,
            "image_url": artist.image_url,
            "fetched_at": fetched_at,
        }
        for rank, artist in enumerate(top.artists, start=1)
    ]
    of_list = (user_id, top.time_range)
    return _replace(conn, t.user_top_artists, t.top_artists_history, of_list, rows)


def replace_top_tracks(
    conn: Connection, user_id: str, top: TopTracks, fetched_at: datetime
) -> tuple[int, Written]:
    """The same for tracks."""
    rows: list[Row] = [
        {
            "user_id": user_id,
            "time_range": top.time_range,
            "rank": rank,
            "spotify_id": entry.spotify_id,
            "name": entry.name,
            "artist_name": entry.artist_name,
            "album_name": entry.album_name,
            "image_url": entry.image_url,
            "preview_url": entry.preview_url,
            "fetched_at": fetched_at,
        }
        for rank, entry in enumerate(top.entries, start=1)
    ]
    of_list = (user_id, top.time_range)
    return _replace(conn, t.user_top_tracks, t.top_tracks_history, of_list, rows)


def _replace(
    conn: Connection,
    table: Table,
    history: Table,
    of_list: tuple[str, TimeRange],
    rows: Sequence[Row],
) -> tuple[int, Written]:
    def belongs(to: Table) -> ColumnElement[bool]:
        return (to.c.user_id == of_list[0]) & (to.c.time_range == of_list[1])

    before = list(
        conn.scalars(select(table.c.spotify_id).where(belongs(table)).order_by(table.c.rank))
    )
    if not rows:
        return len(before), Written()
    since = rows[0]["fetched_at"]
    # A list that came again as it was is not a change; only its fetched_at moves.
    written = upsert_changed(conn, table, rows, stamps=("fetched_at",))
    conn.execute(
        update(table)
        .where(belongs(table), table.c.fetched_at.is_distinct_from(since))
        .values(fetched_at=since)
    )
    conn.execute(delete(table).where(belongs(table), table.c.rank > len(rows)))
    if before != [row["spotify_id"] for row in rows]:
        conn.execute(
            update(history)
            .where(belongs(history), history.c.valid_to.is_(None), history.c.valid_from < since)
            .values(valid_to=since)
        )
        kept = ("user_id", "time_range", "rank", "spotify_id")
        upsert_changed(
            conn, history, [{**{k: row[k] for k in kept}, "valid_from": since} for row in rows]
        )
    return len(rows), written


def read_top_artists(conn: Connection, user_ids: Sequence[str]) -> pd.DataFrame:
    """Top artists of all ranges, best first.

    Columns: user_id, time_range, rank, spotify_id, genres (list or None), popularity, fetched_at.
    """
    table = t.user_top_artists
    columns = [column for column in table.c if column.name not in ("name", "image_url")]
    rows = conn.execute(
        select(*columns)
        .where(table.c.user_id.in_(user_ids))
        .order_by(table.c.user_id, table.c.time_range, table.c.rank)
    ).all()
    return pd.DataFrame(rows, columns=[column.name for column in columns])
