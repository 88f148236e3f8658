"""Top artists and top tracks: the current lists and their history.

A list belongs to one user and one time range.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import (
    Connection,
    DateTime,
    Integer,
    Table,
    TableValuedAlias,
    Text,
    and_,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from spotify_pipeline.domain.model import (
    Artist,
    TimeRange,
    TopArtists,
    TopTrack,
    TopTracks,
    not_provided,
)
from spotify_pipeline.domain.outcome import StepRows
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import read_names
from spotify_pipeline.storage.postgres.bulk import Row, as_row, bulk_rows, frame, upsert_changed

if TYPE_CHECKING:
    import pandas as pd

Top = TypeVar("Top", TopArtists, TopTracks)
# user_id and time range.
ListKey = tuple[str, TimeRange]


@dataclass(frozen=True, slots=True)
class FetchedList(Generic[Top]):
    """A list as Spotify sent it; `fetched_at` is by the facts clock."""

    user_id: str
    top: Top
    fetched_at: datetime

    @property
    def key(self) -> ListKey:
        """user_id and time range."""
        return self.user_id, self.top.time_range


def replace_top_artists(
    conn: Connection, lists: Sequence[FetchedList[TopArtists]]
) -> dict[ListKey, StepRows]:
    """Make the stored lists equal the fetched ones, each of another user or time range.

    Returns the length of each stored list, how many of its ranks are new or changed, and what
    Spotify left out. An empty response keeps the rows and their fetched_at: Spotify sends one for
    accounts whose list it cannot compute.
    """
    rows = [row for fetched in lists for row in _rows(fetched, fetched.top.artists)]
    rows = _with_known_names(conn, rows, "name", t.artists)
    missing = {fetched.key: not_provided(fetched.top.artists) for fetched in lists}
    return _replace(conn, "artists", t.top_list_artists, lists, rows, missing)


def replace_top_tracks(
    conn: Connection, lists: Sequence[FetchedList[TopTracks]]
) -> dict[ListKey, StepRows]:
    """The same for tracks."""
    rows = [row for fetched in lists for row in _rows(fetched, fetched.top.entries)]
    rows = _with_known_names(conn, rows, "name", t.tracks)
    artist_of = {
        track.spotify_id: track.artist_ids[0] for fetched in lists for track in fetched.top.tracks
    }
    rows = _with_known_names(conn, rows, "artist_name", t.artists, artist_of)
    missing = {fetched.key: not_provided(fetched.top.tracks) for fetched in lists}
    return _replace(conn, "tracks", t.top_list_tracks, lists, rows, missing)


def _rows(fetched: FetchedList[Top], items: Sequence[Artist | TopTrack]) -> list[Row]:
    """The rows of a list; the fields of an item are named as the table's columns."""
    user_id, time_range = fetched.key
    key = {"user_id": user_id, "time_range": time_range}
    return [{**key, "rank": rank, **as_row(item)} for rank, item in enumerate(items, start=1)]


def count_ranks(conn: Connection, table: Table, user_ids: Collection[str]) -> dict[ListKey, int]:
    """The lengths of these users' lists in `table`; empty ones are left out."""
    rows = conn.execute(
        select(table.c.user_id, table.c.time_range, func.count())
        .where(table.c.user_id.in_(user_ids))
        .group_by(table.c.user_id, table.c.time_range)
    )
    return {(user_id, time_range): length for user_id, time_range, length in rows}


def _with_known_names(
    conn: Connection,
    rows: list[Row],
    column: str,
    catalogue: Table,
    ids: Mapping[str, str] | None = None,
) -> list[Row]:
    """The rows with names from the catalogue where Spotify sent an empty one.

    `ids`: the catalogue's id of what the column names, by spotify_id (None: the same).
    """

    def id_of(row: Row) -> str:
        return ids[row["spotify_id"]] if ids else row["spotify_id"]

    unnamed = {id_of(row) for row in rows if not row[column]}
    if not unnamed:
        return rows
    names = read_names(conn, catalogue, unnamed)
    return [row if row[column] else {**row, column: names.get(id_of(row), "")} for row in rows]


def _replace(
    conn: Connection,
    kind: str,
    table: Table,
    lists: Sequence[FetchedList[Any]],
    rows: Sequence[Row],
    missing: Mapping[ListKey, tuple[str, ...]],
) -> dict[ListKey, StepRows]:
    if not lists:
        return {}
    keys = [fetched.key for fetched in lists]
    before = _read_ids(conn, table, {user_id for user_id, _ in keys})
    after: dict[ListKey, list[str]] = {}
    for row in rows:
        after.setdefault((row["user_id"], row["time_range"]), []).append(row["spotify_id"])
    fetched_at = {fetched.key: fetched.fetched_at for fetched in lists if fetched.key in after}
    written = upsert_changed(conn, table, rows)
    received = [{**_of(kind, key), "fetched_at": at} for key, at in fetched_at.items()]
    upsert_changed(conn, t.top_lists, received)
    lost = {k for k, ids in before.items() if k in after and len(after[k]) < len(ids)}
    _cut(conn, table, {key: len(after[key]) for key in lost})
    moved = [key for key, ids in after.items() if ids != before.get(key)]
    _keep_versions(conn, kind, {key: (fetched_at[key], after[key]) for key in moved})
    new = Counter((row[0], row[1]) for row in written.inserted)
    changed = Counter((row[0], row[1]) for row in written.changed)
    return {
        key: StepRows(
            len(after.get(key) or before.get(key, [])), new[key], changed[key], missing[key]
        )
        for key in keys
    }


def _of(kind: str, key: ListKey) -> Row:
    """The key columns of a list in top_lists and top_list_versions."""
    user_id, time_range = key
    return {"user_id": user_id, "kind": kind, "time_range": time_range}


def _read_ids(conn: Connection, table: Table, user_ids: set[str]) -> dict[ListKey, list[str]]:
    ids = func.array_agg(aggregate_order_by(table.c.spotify_id, table.c.rank))
    rows = conn.execute(
        select(table.c.user_id, table.c.time_range, ids)
        .where(table.c.user_id.in_(user_ids))
        .group_by(table.c.user_id, table.c.time_range)
    )
    return {(user_id, time_range): ranked for user_id, time_range, ranked in rows}


def _cut(conn: Connection, table: Table, lengths: Mapping[ListKey, int]) -> None:
    """Delete the ranks beyond the end of lists that have become shorter."""
    if lengths:
        of = _lists("length", Integer(), lengths)
        conn.execute(delete(table).where(_belongs(table, of), table.c.rank > of.c.length))


def _keep_versions(
    conn: Connection, kind: str, lists: Mapping[ListKey, tuple[datetime, list[str]]]
) -> None:
    """Close the present version of these lists and insert the new one, received at an instant."""
    if not lists:
        return
    of = _lists("at", DateTime(timezone=True), {key: at for key, (at, _) in lists.items()})
    v = t.top_list_versions
    conn.execute(
        update(v)
        .where(v.c.kind == kind, _belongs(v, of), v.c.valid_to.is_(None), v.c.valid_from < of.c.at)
        .values(valid_to=of.c.at)
    )
    upsert_changed(
        conn,
        v,
        [
            {**_of(kind, key), "valid_from": at, "spotify_ids": ids}
            for key, (at, ids) in lists.items()
        ],
    )


def _lists(name: str, type_: TypeEngine[Any], values: Mapping[ListKey, object]) -> TableValuedAlias:
    """The lists as a table: user_id, time_range, and a column `name` with each list's value."""
    return bulk_rows(
        [
            {"user_id": user_id, "time_range": time_range, name: value}
            for (user_id, time_range), value in values.items()
        ],
        {"user_id": Text(), "time_range": Text(), name: type_},
        "lists",
    )


def _belongs(table: Table, lists: TableValuedAlias) -> ColumnElement[bool]:
    return and_(table.c.user_id == lists.c.user_id, table.c.time_range == lists.c.time_range)


def read_top_artists(conn: Connection, user_ids: Sequence[str]) -> "pd.DataFrame":
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
    return frame(rows, (column.name for column in columns))
