"""What the last 7 local days of many users hold: numbers beside a materialization in Dagster."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

_WEEKS = """
    SELECT u.user_id,
        coalesce(sum(d.plays), 0)::int AS plays,
        ((coalesce(sum(d.listened_ms), 0) + 30000) / 60000)::int AS minutes,
        count(d.date) AS days,
        count(d.date) FILTER (WHERE d.completeness = 'complete') AS complete_days,
        (
            SELECT p.tags FROM spotify_pipeline.music_personality AS p
            WHERE p.user_id = u.user_id
        ) AS tags
    FROM spotify_pipeline.users AS u
    LEFT JOIN spotify_pipeline.daily_listening AS d ON d.user_id = u.user_id
        AND d.date BETWEEN (:now AT TIME ZONE u.timezone)::date - 6
            AND (:now AT TIME ZONE u.timezone)::date
    WHERE u.user_id = ANY (:user_ids)
    GROUP BY u.user_id
"""


@dataclass(frozen=True, slots=True)
class Week:
    """A user's last 7 local days, today included; `days` are those with listening."""

    plays: int = 0
    minutes: int = 0
    days: int = 0
    complete_days: int = 0
    # Of the music personality; empty when there is none.
    tags: tuple[str, ...] = ()


def read_weeks(conn: Connection, user_ids: Collection[str], now: datetime) -> dict[str, Week]:
    """The week of each user that exists."""
    rows = conn.execute(text(_WEEKS), {"user_ids": list(user_ids), "now": now})
    return {
        user_id: Week(plays, minutes, days, complete_days, tuple(tags or ()))
        for user_id, plays, minutes, days, complete_days, tags in rows
    }
