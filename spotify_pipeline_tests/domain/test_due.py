"""The next poll of a user: never later than the user's pace requires, unless quota runs low."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.due import next_due_at

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

pauses = st.lists(st.integers(31, 3000), max_size=49)


def every(pause: timedelta, plays: int = 50, ago: timedelta = MINUTE) -> list[datetime]:
    """The times of a page of plays with this distance between them, newest first."""
    return [NOON - ago - n * pause for n in range(plays)]


def page(pauses: list[int]) -> list[datetime]:
    """The times of a page whose plays are so many seconds apart, newest first."""
    times = [NOON]
    for pause in pauses:
        times.append(times[-1] - timedelta(seconds=pause))
    return times


@pytest.mark.parametrize(
    ("item_times", "wait"),
    [
        (every(31 * SECOND), 15 * MINUTE),
        (every(96 * SECOND), 30 * MINUTE),
        (every(4 * MINUTE), 60 * MINUTE),
        (every(4 * MINUTE, plays=3), 60 * MINUTE),
        (every(4 * MINUTE, ago=8 * HOUR), 60 * MINUTE),
        (every(4 * MINUTE, ago=7 * DAY), 60 * MINUTE),
        (every(4 * MINUTE, ago=7 * DAY + SECOND), DAY),
        ([], DAY),
        (None, 15 * MINUTE),
        (every(40 * SECOND, plays=9) + every(4 * MINUTE, plays=41, ago=HOUR), 15 * MINUTE),
        (every(4 * MINUTE, plays=20) + every(40 * SECOND, plays=30, ago=5 * HOUR), 15 * MINUTE),
    ],
    ids=[
        "fast",
        "25 plays in 40 minutes",
        "slow",
        "few plays",
        "night",
        "seven days",
        "holidays",
        "never",
        "failed",
        "a burst after a quiet evening",
        "a burst before a quiet evening",
    ],
)
def test_faster_listeners_are_polled_sooner(
    item_times: list[datetime] | None, wait: timedelta
) -> None:
    assert next_due_at(NOON, item_times) == NOON + wait


@pytest.mark.parametrize(
    ("item_times", "ago", "wait"),
    [
        ([], DAY, HOUR),
        ([], 8 * DAY, DAY),
        (every(4 * MINUTE, ago=30 * DAY), MINUTE, HOUR),
        (every(4 * MINUTE, ago=30 * DAY), 8 * DAY, DAY),
    ],
    ids=["first day", "never listened", "reconnected", "away"],
)
def test_recently_connected_or_requesting_users_are_polled_hourly_without_plays(
    item_times: list[datetime], ago: timedelta, wait: timedelta
) -> None:
    assert next_due_at(NOON, item_times, heard_at=NOON - ago) == NOON + wait


@pytest.mark.parametrize(
    ("after", "minutes"),
    [(0, 15), (20, 15), (300, 15), (301, 30), (890, 30)],
    ids=["at once", "a run's delay", "a long run", "just fetched by hand", "late"],
)
def test_the_delay_of_a_run_does_not_cost_a_whole_quarter(after: int, minutes: int) -> None:
    due_at = next_due_at(NOON + after * SECOND, every(31 * SECOND))
    assert due_at == NOON + minutes * MINUTE
    slow = next_due_at(NOON + after * SECOND, every(4 * MINUTE))
    assert slow == NOON + HOUR
    # A failed fetch does not count as fresh.
    assert next_due_at(NOON + after * SECOND, None) == NOON + 15 * MINUTE


@given(pauses=pauses)
def test_about_25_plays_gather_between_polls(pauses: list[int]) -> None:
    times = page(pauses)
    wait = next_due_at(NOON, times) - NOON
    assert 15 * MINUTE <= wait <= 60 * MINUTE
    for length in range(8, len(times)):
        for newer, older in zip(times, times[length:], strict=False):
            gathered = wait / ((newer - older) / length)
            # 15 minutes is the shortest wait: 29 plays of 31 seconds fit into it.
            assert gathered <= 25.001 or wait == 15 * MINUTE
            assert gathered <= 30


@given(pauses=pauses, faster=st.floats(0.1, 1), second=st.integers(0, 3599))
def test_faster_listening_is_never_polled_later(
    pauses: list[int], faster: float, second: int
) -> None:
    at = NOON + second * SECOND
    hurried = page([max(31, int(pause * faster)) for pause in pauses])
    assert next_due_at(at, hurried) <= next_due_at(at, page(pauses))


@given(pauses=pauses, second=st.integers(0, 3599), stretch=st.floats(1, 4))
def test_the_next_poll_is_on_a_quarter_hour_between_10_and_60_minutes_away(
    pauses: list[int], second: int, stretch: float
) -> None:
    at = NOON + second * SECOND
    due_at = next_due_at(at, page(pauses), stretch)
    assert (due_at.minute % 15, due_at.second, due_at.microsecond) == (0, 0, 0)
    assert 10 * MINUTE <= due_at - at <= 60 * MINUTE * stretch


@pytest.mark.parametrize(
    ("item_times", "wait"),
    [(every(4 * MINUTE), 150 * MINUTE), (None, 30 * MINUTE), ([], DAY)],
    ids=["active", "failed", "inactive"],
)
def test_polls_are_stretched_when_calls_run_low_but_the_daily_look_is_not(
    item_times: list[datetime] | None, wait: timedelta
) -> None:
    assert next_due_at(NOON, item_times, 2.5) == NOON + wait


@given(stretch=st.floats(1, 4), more=st.floats(0, 3))
def test_fewer_calls_left_never_mean_an_earlier_poll(stretch: float, more: float) -> None:
    times = every(60 * SECOND)
    assert next_due_at(NOON, times, stretch) <= next_due_at(NOON, times, stretch + more)
