"""Plays: facts, stored once, never overwritten."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import pandas as pd
from sqlalchemy import ARRAY, Connection, DateTime, Text, and_, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.domain.model import Play
from spotify_pipeline.storage import tables as t

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

ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


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
        insert(t.plays).on_conflict_do_nothing().returning(t.plays.c.user_id, t.plays.c.played_at),
        rows,
    )
    return [(row.user_id, row.played_at) for row in inserted]


def read_plays(
    conn: Connection, windows: Mapping[str, tuple[datetime, datetime] | None]
) -> pd.DataFrame:
    """Plays of each user within their half-open UTC window (None: all plays), by user and time.

    Columns as PLAY_DTYPES: artist_id is the primary artist; ms_played is NA for API plays.
    """
    plays, tracks = t.plays, t.tracks
    spans = [span or ALWAYS for span in windows.values()]
    # Three arrays instead of a VALUES row per user: always three parameters, one cached plan.
    window = (
        func.unnest(
            literal(list(windows), ARRAY(Text)),
            literal([since for since, _ in spans], ARRAY(DateTime(timezone=True))),
            literal([until for _, until in spans], ARRAY(DateTime(timezone=True))),
        )
        .table_valued("user_id", "since", "until", name="reading")
        .render_derived()
    )
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
        .join_from(
            plays,
            window,
            and_(
                plays.c.user_id == window.c.user_id,
                plays.c.played_at >= window.c.since,
                plays.c.played_at < window.c.until,
            ),
        )
        .join(tracks, tracks.c.spotify_id == plays.c.track_id)
        .order_by(plays.c.user_id, plays.c.played_at, plays.c.track_id)
    )
    rows = conn.execute(statement).all() if windows else []
    return pd.DataFrame(rows, columns=list(PLAY_DTYPES)).astype(PLAY_DTYPES)


def count_plays(conn: Connection, user_ids: Iterable[str]) -> dict[str, int]:
    """Stored plays per user; users without any are left out."""
    rows = conn.execute(
        select(t.plays.c.user_id, func.count())
        .where(t.plays.c.user_id.in_(list(user_ids)))
        .group_by(t.plays.c.user_id)
    )
    return {row[0]: row[1] for row in rows}
