"""What is known about one person's listening, as `users show` tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection, Table, select

from spotify_pipeline.storage import tables as t


@dataclass(frozen=True, slots=True)
class Day:
    """A local day: the columns of daily_listening; None and 'unknown' where there is no row."""

    date: date
    minutes: int | None
    plays: int | None
    completeness: str


@dataclass(frozen=True, slots=True)
class TopItem:
    """The first of a top list; `artist_name` is None for an artist."""

    spotify_id: str
    name: str
    artist_name: str | None = None


@dataclass(frozen=True, slots=True)
class Portrait:
    """The last days, oldest first, the tops of the last four weeks, the personality so far."""

    days: tuple[Day, ...]
    top_artist: TopItem | None
    top_track: TopItem | None
    # The columns of music_personality; None before the first one is computed.
    personality: Mapping[str, Any] | None


def read_portrait(conn: Connection, user_id: str, today: date, days: int = 7) -> Portrait:
    """The person's portrait; `today` is their local date, the last of the `days`."""
    p = t.music_personality
    personality = conn.execute(select(p).where(p.c.user_id == user_id)).mappings().one_or_none()
    artist = _first(conn, t.user_top_artists, user_id)
    track = _first(conn, t.user_top_tracks, user_id)
    return Portrait(
        days=_days(conn, user_id, today, days),
        top_artist=TopItem(artist["spotify_id"], artist["name"]) if artist else None,
        top_track=(
            TopItem(track["spotify_id"], track["name"], track["artist_name"]) if track else None
        ),
        personality={**personality} if personality else None,
    )


def _days(conn: Connection, user_id: str, today: date, days: int) -> tuple[Day, ...]:
    d = t.daily_listening
    wanted = [today - timedelta(days=back) for back in range(days - 1, -1, -1)]
    rows = conn.execute(
        select(d.c.date, d.c.minutes, d.c.plays, d.c.completeness).where(
            d.c.user_id == user_id, d.c.date.between(wanted[0], wanted[-1])
        )
    )
    known = {row.date: Day(*row) for row in rows}
    return tuple(known.get(day, Day(day, None, None, "unknown")) for day in wanted)


def _first(conn: Connection, top: Table, user_id: str) -> Mapping[str, Any] | None:
    first = select(top).where(
        top.c.user_id == user_id, top.c.time_range == "short_term", top.c.rank == 1
    )
    row = conn.execute(first).mappings().one_or_none()
    return {**row} if row else None
