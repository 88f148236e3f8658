"""Plays: facts, stored once, never overwritten."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    DateTime,
    TableValuedAlias,
    Text,
    and_,
    cast,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.days import COUNTED_FROM_MS
from spotify_pipeline.domain.model import Play
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.frames import frame
from spotify_pipeline.storage.recordset import insert_rows

PLAY_DTYPES = {
    "user_id": "str",
    "played_at": "datetime64[us, UTC]",
    "track_id": "str",
    "artist_id": "str",
    "source": "str",
    "ms_played": "Int64",
    "duration_ms": "int64",
    "release_date": "str",
}

# From and until, half-open, UTC; None: always.
Window = tuple[datetime, datetime] | None
ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Heard:
    """A user's plays in some time, summed up: the distinct primary artists, the number of plays."""

    artist_ids: list[str]
    plays: int


def insert_plays(
    conn: Connection, plays: Mapping[str, Sequence[Play]]
) -> list[tuple[str, datetime]]:
    """Store each user's plays that are not known yet; return (user_id, played_at) of the new ones.

    A play of the same instant under another track id is the same play relinked, and not stored.
    """
    rows = [
        {
            "user_id": user_id,
            "played_at": play.played_at,
            "track_id": play.track_id,
            "source": "api",
            "context_uri": play.context_uri,
        }
        for user_id, played in plays.items()
        for play in played
    ]
    if not rows:
        return []
    inserted = conn.execute(
        insert_rows(t.plays, rows)
        .on_conflict_do_nothing()
        .returning(t.plays.c.user_id, t.plays.c.played_at)
    )
    return [(row.user_id, row.played_at) for row in inserted]


def read_plays(conn: Connection, windows: Mapping[str, Window]) -> pd.DataFrame:
    """Plays of each user within their half-open UTC window (None: all plays), by user and time.

    Columns as PLAY_DTYPES: artist_id is the primary artist; ms_played is NA for API plays.
    """
    plays, tracks = t.plays, t.tracks
    window = _reading(windows)
    statement = (
        select(
            plays.c.user_id,
            plays.c.played_at,
            plays.c.track_id,
            tracks.c.artist_ids[1].label("artist_id"),
            plays.c.source,
            plays.c.ms_played,
            tracks.c.duration_ms,
            tracks.c.release_date,
        )
        .join_from(plays, window, _is_inside(window))
        .join(tracks, tracks.c.spotify_id == plays.c.track_id)
        .order_by(plays.c.user_id, plays.c.played_at, plays.c.track_id)
    )
    rows = conn.execute(statement).all() if windows else []
    return frame(rows, PLAY_DTYPES).astype(PLAY_DTYPES)


def summarize_plays(conn: Connection, windows: Mapping[str, Window]) -> dict[str, Heard]:
    """What each user heard in their half-open UTC window; who heard nothing is left out.

    Only plays that count (see domain.days.counted).
    """
    plays, tracks = t.plays, t.tracks
    window = _reading(windows)
    # By track first: joining every play with its track takes longer.
    of_track = (
        select(plays.c.user_id, plays.c.track_id, func.count().label("plays"))
        .join_from(plays, window, _is_inside(window))
        .where(or_(plays.c.source == "api", plays.c.ms_played >= COUNTED_FROM_MS))
        .group_by(plays.c.user_id, plays.c.track_id)
        .subquery()
    )
    rows = conn.execute(
        select(
            of_track.c.user_id,
            func.array_agg(tracks.c.artist_ids[1].distinct()),
            cast(func.sum(of_track.c.plays), BigInteger),
        )
        .join_from(of_track, tracks, tracks.c.spotify_id == of_track.c.track_id)
        .group_by(of_track.c.user_id)
    )
    return {user_id: Heard(artist_ids, plays) for user_id, artist_ids, plays in rows}


def _reading(windows: Mapping[str, Window]) -> TableValuedAlias:
    """The windows as a table: user_id, since, until."""
    spans = [span or ALWAYS for span in windows.values()]
    # Three arrays instead of a VALUES row per user: always three parameters, one cached plan.
    return (
        func.unnest(
            literal(list(windows), ARRAY(Text)),
            literal([since for since, _ in spans], ARRAY(DateTime(timezone=True))),
            literal([until for _, until in spans], ARRAY(DateTime(timezone=True))),
        )
        .table_valued("user_id", "since", "until", name="reading")
        .render_derived()
    )


def _is_inside(window: TableValuedAlias) -> ColumnElement[bool]:
    plays = t.plays
    return and_(
        plays.c.user_id == window.c.user_id,
        plays.c.played_at >= window.c.since,
        plays.c.played_at < window.c.until,
    )


def count_plays(conn: Connection, user_ids: Iterable[str]) -> dict[str, int]:
    """Stored plays per user; users without any are left out."""
    tallies = t.listening_tallies
    rows = conn.execute(
        select(tallies.c.user_id, tallies.c.plays).where(
            tallies.c.user_id.in_(list(user_ids)), tallies.c.plays > 0
        )
    )
    return {user_id: plays for user_id, plays in rows}
