"""Reads plays and days as they are stored, for the demo's independent recount of every day."""

from datetime import date, datetime

from sqlalchemy import Connection, func, select

from spotify_pipeline.storage import tables as t

Day = tuple[int, int, int]  # minutes, listened_ms, plays
PlayKey = tuple[datetime, str]  # played_at, track_id


def stored_plays(conn: Connection, user_id: str) -> set[PlayKey]:
    """The keys of all plays of a user."""
    p = t.plays
    rows = conn.execute(select(p.c.played_at, p.c.track_id).where(p.c.user_id == user_id))
    return {(row.played_at, row.track_id) for row in rows}


def first_api_play(conn: Connection, user_id: str) -> datetime | None:
    """The end of a user's first play that the API listed; None if there is none."""
    p = t.plays
    first: datetime | None = conn.scalar(
        select(func.min(p.c.played_at)).where(p.c.user_id == user_id, p.c.source == "api")
    )
    return first


def stored_days(conn: Connection, user_id: str) -> dict[date, Day]:
    """All rows of daily_listening of a user, by date."""
    d = t.daily_listening
    rows = conn.execute(
        select(d.c.date, d.c.minutes, d.c.listened_ms, d.c.plays).where(d.c.user_id == user_id)
    )
    return {row.date: (row.minutes, row.listened_ms, row.plays) for row in rows}


def last_fetched_at(conn: Connection) -> datetime | None:
    """When plays of any user were last fetched; None: never."""
    last: datetime | None = conn.scalar(select(func.max(t.sync_state.c.plays_fetched_at)))
    return last
