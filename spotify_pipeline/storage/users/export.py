"""Exports all that is stored about a user, or their plays alone; tombstones of forgotten users."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    CompoundSelect,
    Connection,
    Select,
    Table,
    cast,
    collate,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
    update,
)

from spotify_pipeline.domain.model import COUNTED_FROM_MS, HeardPlay
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.counters import plays_heard

# Secrets of the connection, and columns of the machinery: not data about the user.
KEPT_BACK = {
    "user_tokens": ("sealed_refresh_token", "sealed_access_token", "key_id"),
    "sync_state": ("lease_id", "lease_until"),
}
AT_ONCE = 5_000


FORGOTTEN_AT_ONCE = 50


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


def read_extended(conn: Connection, user_id: str) -> Iterator[HeardPlay]:
    """A user's extended history in the order of the ends, streamed: what was imported, and what
    only the API lists."""
    i, p = t.imported_plays, t.plays
    heard = plays_heard(p.c.user_id == user_id).add_columns(p.c.track_id).subquery("heard")
    listed = select(
        heard.c.played_at,
        heard.c.listened_ms,
        heard.c.track_id,
        cast(null(), i.c.offline_started_at.type),
    ).where(heard.c.source == "api", heard.c.ms_played.is_(None))
    return _read_history(conn, union_all(_imported(user_id, "extended"), listed))


def read_account(conn: Connection, user_id: str) -> Iterator[HeardPlay]:
    """The imported account data of a user in the order of the minutes, streamed."""
    return _read_history(conn, _imported(user_id, "account"))


def _imported(user_id: str, source: str) -> Select[Any]:
    i = t.imported_plays
    columns = (i.c.ended_at, i.c.ms_played, i.c.track_id, i.c.offline_started_at)
    return select(*columns).where(i.c.user_id == user_id, i.c.source == source)


def _read_history(
    conn: Connection, history: Select[Any] | CompoundSelect[Any]
) -> Iterator[HeardPlay]:
    h, k, a = history.subquery("history"), t.tracks, t.artists
    rows = conn.execution_options(yield_per=AT_ONCE).execute(
        select(
            h.c.ended_at,
            h.c.ms_played,
            literal(True),
            h.c.track_id,
            k.c.name,
            func.coalesce(k.c.artist_name, a.c.name, ""),
            k.c.album_name,
            k.c.duration_ms,
            k.c.isrc,
            h.c.offline_started_at,
        )
        .join_from(h, k, k.c.spotify_id == h.c.track_id)
        .outerjoin(a, a.c.spotify_id == k.c.artist_ids[1])
        .order_by(h.c.ended_at, collate(h.c.track_id, "C"), h.c.ms_played)
    )
    for row in rows:
        yield HeardPlay(*row)


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


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A forgotten user. Instants and ages are by the database's clock."""

    id: int
    user_id: str
    forgotten_at: datetime
    age: timedelta
    # When the same id was registered again; None: it was not.
    registered_again_at: datetime | None


def read_tombstones(conn: Connection) -> list[Tombstone]:
    """At most FORGOTTEN_AT_ONCE random tombstones of users whom Dagster's storage may still name.

    Random, so that each has its turn; limited, so that a tick ends soon after a mass deletion.
    """
    f, u = t.forgotten, t.users
    rows = conn.execute(
        select(f.c.id, f.c.user_id, f.c.forgotten_at, func.now() - f.c.forgotten_at, u.c.created_at)
        .join_from(f, u, u.c.user_id == f.c.user_id, isouter=True)
        .where(f.c.user_id.is_not(None))
        .order_by(func.random())
        .limit(FORGOTTEN_AT_ONCE)
    )
    return [Tombstone(*row) for row in rows]


def names_on_tombstones(conn: Connection) -> set[str]:
    """Forgotten users whom Dagster's storage may still name."""
    f = t.forgotten
    return set(conn.scalars(select(f.c.user_id).where(f.c.user_id.is_not(None))))


def note_traces(
    conn: Connection, tombstone: Tombstone, traces: Mapping[str, int], *, last: bool
) -> None:
    """Add the counts of deleted traces; the `last` round deletes the user id from the tombstone."""
    f = t.forgotten
    already = conn.scalar(select(f.c.traces).where(f.c.id == tombstone.id).with_for_update())
    counts = {kind: traces.get(kind, 0) + (already or {}).get(kind, 0) for kind in traces}
    conn.execute(
        update(f)
        .where(f.c.id == tombstone.id, f.c.user_id.is_not(None))
        .values(
            traces={**(already or {}), **counts},
            **({"user_id": None, "scrubbed_at": func.now()} if last else {}),
        )
    )
