"""The numbers of a user's last 7 days beside their materializations."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.counters import Week, read_weeks

# The 4th in Apia (UTC+13), the 3rd in UTC.
NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
TODAY = date(2026, 3, 4)


def day(ago: int, listened_ms: int, **columns: Any) -> dict[str, Any]:
    """A stored day, complete and with a play unless the columns say otherwise."""
    return {
        "user_id": "anna",
        "date": TODAY - timedelta(days=ago),
        "minutes": (listened_ms + 30_000) // 60_000,
        "listened_ms": listened_ms,
        "plays": 1,
        "unique_tracks": 1,
        "unique_artists": 1,
        "completeness": "complete",
        "basis": "api",
        **columns,
    }


@pytest.fixture
def anna(connection: Connection) -> Connection:
    connection.execute(insert(t.users).values(user_id="anna", timezone="Pacific/Apia"))
    return connection


@pytest.mark.parametrize(
    ("listened_ms", "minutes"),
    [(0, 0), (29_999, 0), (30_000, 1), (89_999, 1), (90_000, 2), (119_999, 2), (6_000_000, 100)],
)
def test_the_minutes_of_a_week_are_rounded_half_up_once(
    anna: Connection, listened_ms: int, minutes: int
) -> None:
    # In two days, whose own minutes are rounded too.
    halves = (listened_ms // 2, listened_ms - listened_ms // 2)
    anna.execute(insert(t.daily_listening), [day(n, half) for n, half in enumerate(halves)])
    assert read_weeks(anna, ["anna"], NOW)["anna"].minutes == minutes


def test_a_week_is_seven_local_days_and_counts_days_with_plays(anna: Connection) -> None:
    anna.execute(
        insert(t.daily_listening),
        [
            day(-1, 60_000),
            day(0, 60_000, completeness="at_least"),
            # Only plays under 30 s.
            day(1, 10_000, plays=0, unique_tracks=0, unique_artists=0, basis="export"),
            day(6, 60_000),
            day(7, 60_000),
        ],
    )
    assert read_weeks(anna, ["anna", "nemo"], NOW) == {
        "anna": Week(plays=2, minutes=2, days=2, complete_days=1)
    }
