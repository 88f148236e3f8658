"""Reads the portrait of one user's listening."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Table, cast, func, literal, select

from spotify_pipeline.domain.due import CLOCKS_MAY_DIFFER
from spotify_pipeline.domain.listening.coverage import completeness, local_day
from spotify_pipeline.domain.portrait import (
    COMPARED_AFTER,
    QUARTER_SECONDS,
    Day,
    Portrait,
    TopItem,
    TopList,
    calendar_start,
    minutes_by_hour,
)
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.counters import plays_heard, previous_play
from spotify_pipeline.storage.listening.coverage import Coverage, read_coverage

SHOWN_ITEMS = 10
CLOCK_DAYS = timedelta(days=28)


def read_portrait(conn: Connection, user_id: str, now: datetime) -> Portrait:
    """The user's portrait as of `now`; the user must exist."""
    u = t.users
    zone = conn.execute(select(u.c.timezone).where(u.c.user_id == user_id)).scalar_one()
    today = now.astimezone(check_zone(zone)).date()
    p = t.music_personality
    row = conn.execute(select(p).where(p.c.user_id == user_id)).mappings().one_or_none()
    coverage = read_coverage(conn, [user_id])[user_id].until(now)
    return Portrait(
        days=_days(conn, user_id, today, coverage, now),
        hours=minutes_by_hour(_quarters(conn, user_id, now), check_zone(zone)),
        artists=_top(conn, user_id, now, t.user_top_artists, t.top_artists_history),
        tracks=_top(conn, user_id, now, t.user_top_tracks, t.top_tracks_history),
        personality={**row} if row else None,
        gaps=tuple(reversed(coverage.open_gaps)),
        names=_names(conn, {**row}) if row else {},
    )


def _days(
    conn: Connection, user_id: str, today: date, coverage: Coverage, now: datetime
) -> tuple[Day, ...]:
    """Every day of the calendar. Coverage decides about days without plays: they have no row."""
    d, u, s = t.daily_listening, t.users, t.sync_state
    start = calendar_start(today)
    rows = conn.execute(
        select(d.c.date, d.c.minutes, d.c.plays, d.c.completeness).where(
            d.c.user_id == user_id, d.c.date.between(start, today)
        )
    )
    stored = {row.date: Day(*row) for row in rows}
    timezone, stale, fetched_at = conn.execute(
        select(u.c.timezone, u.c.days_stale, s.c.plays_fetched_at)
        .join_from(u, s, s.c.user_id == u.c.user_id)
        .where(u.c.user_id == user_id)
    ).one()
    if fetched_at and fetched_at > now + CLOCKS_MAY_DIFFER:
        fetched_at = None  # a wrong clock stored it: it completes no day

    def quiet(date_: date) -> Day:
        span = local_day(date_, check_zone(timezone))
        known = completeness(
            span,
            coverage.known,
            coverage.open_gaps,
            fetched_at,
            has_play=False,
            imported=coverage.imported,
        )
        # While days are stale, a play of this day may be missing from them.
        if known == "complete" and not stale:
            return Day(date_, 0, 0, known)
        return Day(date_, None, None, "at_least" if known == "complete" else known)

    dates = [start + timedelta(days=n) for n in range((today - start).days + 1)]
    return tuple(stored.get(date_) or quiet(date_) for date_ in dates)


def _quarters(conn: Connection, user_id: str, now: datetime) -> list[tuple[int, int]]:
    """Milliseconds heard per quarter of an hour of the last four weeks."""
    p, since = t.plays, now - CLOCK_DAYS
    heard = plays_heard(
        p.c.user_id == user_id,
        p.c.played_at >= previous_play(literal(user_id), since),
        p.c.played_at <= now,
    ).subquery("heard")
    epoch = func.extract("epoch", heard.c.played_at)
    quarter = cast(func.floor(epoch / QUARTER_SECONDS), BigInteger).label("quarter")
    rows = conn.execute(
        select(quarter, cast(func.sum(heard.c.listened_ms), BigInteger))
        .where(heard.c.played_at >= since)
        .group_by(quarter)
    )
    return [(row[0], row[1]) for row in rows]


def _top(conn: Connection, user_id: str, now: datetime, table: Table, history: Table) -> TopList:
    of_list = (table.c.user_id == user_id, table.c.time_range == "short_term")
    rows = conn.execute(
        select(table).where(*of_list).order_by(table.c.rank).limit(SHOWN_ITEMS)
    ).mappings()
    items = tuple(TopItem(row["spotify_id"], row["name"], row.get("artist_name")) for row in rows)
    then = now.astimezone(UTC) - COMPARED_AFTER
    before = conn.execute(
        select(history.c.spotify_id, history.c.rank).where(
            history.c.user_id == user_id,
            history.c.time_range == "short_term",
            history.c.valid_from <= then,
            history.c.valid_to.is_(None) | (history.c.valid_to > then),
        )
    ).all()
    return TopList(items, {row.spotify_id: row.rank for row in before} or None)


def _names(conn: Connection, personality: Mapping[str, Any]) -> dict[str, str]:
    a = t.artists
    ids = [personality["longest_streak_artist_id"], personality["streak_artist_id"]]
    rows = conn.execute(
        select(a.c.spotify_id, a.c.name).where(a.c.spotify_id.in_(filter(None, ids)))
    )
    return {row.spotify_id: row.name for row in rows}
