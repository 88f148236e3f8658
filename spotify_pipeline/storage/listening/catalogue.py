"""Artists and tracks: facts about Spotify's catalogue, shared by all users."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    Connection,
    Integer,
    Table,
    Text,
    and_,
    case,
    collate,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.domain.listening.exported import ExportedTrack
from spotify_pipeline.domain.model import Artist, Track
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import Row, any_of, array_rows, as_row
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


def save_exported_tracks(conn: Connection, tracks: Sequence[ExportedTrack]) -> None:
    """Store what exports say of tracks, and an artist of each name.

    Values of the API stay; of two exports the greater names stay, so that their order does not
    matter. Sorted, so that two writers of the catalogue cannot deadlock.
    """
    artists = sorted({(track.artist_id, track.artist_name) for track in tracks})
    ids, names = [id_ for id_, _ in artists], [name for _, name in artists]
    given = array_rows("given", spotify_id=(Text(), ids), name=(Text(), names))
    conn.execute(
        insert(t.artists)
        .from_select(["spotify_id", "name"], select(*given.c))
        .on_conflict_do_nothing()
    )
    k, texts = t.tracks, ("name", "artist_name", "album_name")
    ordered = sorted(tracks, key=attrgetter("track_id"))
    shown = array_rows(
        "given",
        spotify_id=(Text(), [track.track_id for track in ordered]),
        name=(Text(), [track.name for track in ordered]),
        artist_name=(Text(), [track.artist_name for track in ordered]),
        album_name=(Text(), [track.album_name for track in ordered]),
        artist_id=(Text(), [track.artist_id for track in ordered]),
    )
    artist_ids = func.array_fill(shown.c.artist_id, literal([1], ARRAY(Integer)))
    statement = insert(k).from_select(
        ["spotify_id", *texts, "artist_ids"],
        select(shown.c.spotify_id, *(shown.c[name] for name in texts), artist_ids),
    )
    new = statement.excluded

    def sort_key(of: Any) -> Any:
        return tuple_(*(collate(func.coalesce(of[name], ""), "C") for name in texts))

    exported = k.c.artist_name.is_not(None)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["spotify_id"],
            set_={
                **{name: case((exported, new[name]), else_=k.c[name]) for name in texts},
                "name": case((exported | (k.c.name == ""), new.name), else_=k.c.name),
                "album_name": case(
                    (exported, new.album_name),
                    else_=func.coalesce(k.c.album_name, new.album_name),
                ),
                "artist_ids": case((exported, new.artist_ids), else_=k.c.artist_ids),
            },
            where=or_(
                and_(exported, sort_key(new) > sort_key(k.c)),
                and_(
                    ~exported,
                    or_(
                        and_(k.c.name == "", new.name != ""),
                        and_(k.c.album_name.is_(None), new.album_name.is_not(None)),
                    ),
                ),
            ),
        )
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
