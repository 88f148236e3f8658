"""Figures of the last 7 local days of many users, shown with materializations in Dagster."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

_WEEKS = """
    SELECT u.user_id,
        coalesce(sum(d.plays), 0)::int AS plays,
        -- Half up, like a day's minutes: the sum is numeric, not a bigint.
        round(coalesce(sum(d.listened_ms), 0) / 60000)::int AS minutes,
        count(d.date) FILTER (WHERE d.plays > 0) AS days,
        count(d.date) FILTER (WHERE d.plays > 0 AND d.completeness = 'complete') AS complete_days,
        p.tags,
        p.play_count
    FROM spotify_pipeline.users AS u
    LEFT JOIN spotify_pipeline.daily_listening AS d ON d.user_id = u.user_id
        AND d.date BETWEEN (:now AT TIME ZONE u.timezone)::date - 6
            AND (:now AT TIME ZONE u.timezone)::date
    LEFT JOIN spotify_pipeline.music_personality AS p ON p.user_id = u.user_id
    WHERE u.user_id = ANY (:user_ids)
    GROUP BY u.user_id, p.tags, p.play_count
"""


@dataclass(frozen=True, slots=True)
class Week:
    """A user's last 7 local days, today included; `days` are those with a counted play."""

    plays: int = 0
    minutes: int = 0
    days: int = 0
    complete_days: int = 0
    # Of the music personality; None and 0 when there is none.
    tags: tuple[str, ...] | None = None
    # Plays of the personality's 28 days.
    play_count: int = 0


def read_weeks(conn: Connection, user_ids: Collection[str], now: datetime) -> dict[str, Week]:
    """The week of each user that exists."""
    rows = conn.execute(text(_WEEKS), {"user_ids": list(user_ids), "now": now})
    return {
        row.user_id: Week(
            row.plays,
            row.minutes,
            row.days,
            row.complete_days,
            None if row.tags is None else tuple(row.tags),
            row.play_count or 0,
        )
        for row in rows
    }
