"""The days that are read for streaks give the streaks of all stored days."""

from datetime import date, timedelta

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert

from spotify_pipeline.domain.personality.streaks import streaks
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.days import read_streak_days
from spotify_pipeline_tests.domain.builders import records

TODAY = date(2026, 11, 20)
ENOUGH = 2
COUNTS = dict.fromkeys(("minutes", "listened_ms", "plays", "unique_tracks", "unique_artists"), 1)


@settings(
    max_examples=settings.default.max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.text("ab.-", max_size=12), min_size=2, max_size=2))
def test_streaks_of_the_days_read_for_them_are_those_of_all_days(
    engine: Engine, letters: list[str]
) -> None:
    """A letter per date until today: an artist, `.` no play, `-` no top artist."""
    histories = dict(zip(("anna", "ben"), letters, strict=True))
    days = [
        (user_id, TODAY - timedelta(days=ago), None if letter == "-" else letter)
        for user_id, artists in histories.items()
        for ago, letter in enumerate(reversed(artists))
        if letter != "."
    ]
    everything = pd.DataFrame(days, columns=["user_id", "date", "top_artist_id"])
    today = dict.fromkeys(histories, TODAY)
    with engine.connect() as conn:
        conn.execute(insert(t.users), [{"user_id": user_id} for user_id in histories])
        for user_id, day, artist in days:
            row = {"user_id": user_id, "date": day, "top_artist_id": artist, **COUNTS}
            conn.execute(insert(t.daily_listening), row)
        read = read_streak_days(conn, list(histories))
        conn.rollback()
    found, expected = (streaks(some, today) for some in (read, everything))
    for counts in (found, expected):
        counts["days"] = counts["days"].clip(upper=ENOUGH)
    assert records(found) == records(expected)
