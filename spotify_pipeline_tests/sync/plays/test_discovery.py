"""The share of new artists compared with the 180 days before, on a handmade history.

It is noon in UTC on 2026-03-04 and already the 5th in Auckland, 13 hours ahead. There the window is
2026-02-06 to 03-05, and the days before it are 2025-08-10 to 2026-02-05.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert

from spotify_pipeline.domain.listening.coverage import Interval
from spotify_pipeline.domain.model import Artist, Track
from spotify_pipeline.domain.outcome import DAILY_LISTENING, MUSIC_PERSONALITY
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

ZONE = ZoneInfo("Pacific/Auckland")
REBUILD = (DAILY_LISTENING, MUSIC_PERSONALITY)
MINUTE = timedelta(minutes=1)
MILLISECOND = timedelta(milliseconds=1)
ARTISTS = ("known", "edge", "new", "guest")


def local(day: str, hour: int = 0) -> datetime:
    """An instant of a day in Auckland."""
    return (
        datetime.combine(date.fromisoformat(day), datetime.min.time(), ZONE)
        .replace(hour=hour)
        .astimezone(UTC)
    )


FIRST, WINDOW = local("2025-08-10"), local("2026-02-06")


@pytest.fixture
def history(scenario: Scenario) -> Scenario:
    """Anna: 60 plays in the window, 15 of an artist she had not played in the 180 days before.

    Before it 200 plays that count, and 60 observed days: exactly enough.
    """
    with scenario.pipeline.engine.begin() as conn:
        save_artists(conn, [Artist(name, name) for name in ARTISTS])
        save_tracks(conn, [Track(name, name, 200_000, (name, "guest")) for name in ARTISTS])
        conn.execute(insert(t.users).values(user_id="anna", timezone=str(ZONE)))
    play(scenario, "anna", "known", times(local("2026-02-10", 9), 40))
    play(scenario, "anna", "edge", times(local("2026-02-11", 9), 5))
    play(scenario, "anna", "new", times(local("2026-02-12", 9), 14))
    play(scenario, "anna", "new", [WINDOW])  # the window's first instant
    play(scenario, "anna", "known", times(local("2025-12-01", 9), 198))
    play(scenario, "anna", "edge", [FIRST, WINDOW - MILLISECOND])  # the first and the last instant
    # None of these makes the artist known: too long ago, too short, only as a guest.
    play(scenario, "anna", "new", [FIRST - MILLISECOND])
    play(scenario, "anna", "new", times(local("2025-12-02", 9), 50), ms_played=29_999)
    cover(scenario, "anna", Interval(local("2025-10-01"), local("2025-11-30")))
    return scenario


def times(start: datetime, count: int) -> list[datetime]:
    return [start + n * MINUTE for n in range(count)]


def play(
    scenario: Scenario,
    user_id: str,
    track_id: str,
    ends: Iterable[datetime],
    ms_played: int | None = None,
) -> None:
    source = "api" if ms_played is None else "export"
    with scenario.pipeline.engine.begin() as conn:
        conn.execute(
            insert(t.plays),
            [
                {
                    "user_id": user_id,
                    "played_at": at,
                    "track_id": track_id,
                    "source": source,
                    "ms_played": ms_played,
                }
                for at in ends
            ],
        )


def cover(scenario: Scenario, user_id: str, interval: Interval) -> None:
    with scenario.pipeline.engine.begin() as conn:
        conn.execute(
            insert(t.coverage).values(
                user_id=user_id, covered_from=interval.start, covered_to=interval.end
            )
        )


def rate(scenario: Scenario, user_id: str = "anna") -> float | str:
    """The discovery rate, or the reason why it is missing."""
    scenario.sync_well(user_id, steps=REBUILD)
    row = scenario.row(t.music_personality, user_id)
    metric = "artist_discovery_rate"
    return row["reasons"][metric] if row[metric] is None else row[metric]


def test_the_share_of_plays_of_artists_not_heard_before(history: Scenario) -> None:
    assert rate(history) == 15 / 60
    assert history.row(t.music_personality, "anna")["window_start"] == date(2026, 2, 6)


def test_an_imported_play_of_30_seconds_makes_an_artist_known(history: Scenario) -> None:
    play(history, "anna", "new", [local("2025-12-03", 9)], ms_played=30_000)
    assert rate(history) == 0


def test_one_play_too_few_before_the_window_gives_a_reason(history: Scenario) -> None:
    history.execute(
        "DELETE FROM spotify_pipeline.plays WHERE played_at = :at", at=local("2025-12-01", 9)
    )
    assert rate(history) == "needs 200 plays in the 180 days before, has 199"


def test_one_observed_day_too_few_before_the_window_gives_a_reason(history: Scenario) -> None:
    history.execute(
        "UPDATE spotify_pipeline.coverage SET covered_to = covered_to - interval '1 ms'"
    )
    assert rate(history) == "needs 60 observed days in the 180 days before, has 59"


def test_only_observed_days_just_before_the_window_count(history: Scenario) -> None:
    history.execute("DELETE FROM spotify_pipeline.coverage")
    cover(history, "anna", Interval(local("2025-01-01"), FIRST))
    cover(history, "anna", Interval(WINDOW, local("2026-03-05")))
    assert rate(history) == "needs 60 observed days in the 180 days before, has 0"


def test_the_180_day_window_follows_the_users_zone(history: Scenario) -> None:
    # Niue's clocks are 24 hours behind Auckland's in March and 23 in August: the window is the
    # same, and the days before it begin an hour earlier, so they include the play that was too old.
    history.move("anna", "Pacific/Niue")
    assert rate(history) == 0


def test_each_user_is_compared_with_their_own_past(history: Scenario) -> None:
    history.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES ('ben'), ('cem')")
    play(history, "ben", "new", times(local("2025-12-05", 9), 300))
    play(history, "ben", "known", times(local("2026-02-10", 9), 60))
    cover(history, "ben", Interval(local("2025-08-01"), local("2026-03-01")))
    play(history, "cem", "new", times(local("2026-02-10", 9), 60))
    history.sync_well("anna", "ben", "cem", steps=REBUILD)
    assert rate(history) == 15 / 60
    assert rate(history, "ben") == 1
    assert rate(history, "cem") == "needs 60 observed days in the 180 days before, has 0"
