"""When a user is polled again: never later than their own pace allows, unless calls run low."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.due import next_due_at

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def every(pause: timedelta, plays: int = 50, ago: timedelta = MINUTE) -> list[datetime]:
    """The times of a page of plays with this pause between them, newest first."""
    return [NOON - ago - n * pause for n in range(plays)]


@pytest.mark.parametrize(
    ("item_times", "wait"),
    [
        (every(timedelta(seconds=31)), 15 * MINUTE),
        (every(timedelta(seconds=96)), 40 * MINUTE),
        (every(4 * MINUTE), 60 * MINUTE),
        (every(4 * MINUTE, plays=3), 60 * MINUTE),
        (every(4 * MINUTE, ago=8 * DAY), DAY),
        ([], DAY),
        (None, 15 * MINUTE),
    ],
    ids=["fast", "25 plays in 40 minutes", "slow", "few plays", "inactive", "never", "failed"],
)
def test_who_listens_faster_is_polled_sooner(
    item_times: list[datetime] | None, wait: timedelta
) -> None:
    assert next_due_at(NOON, item_times) == NOON + wait


@given(pauses=st.lists(st.integers(31, 600), min_size=30, max_size=50))
def test_half_of_the_page_is_the_margin_at_the_fastest_recent_pace(pauses: list[int]) -> None:
    times = [NOON]
    for pause in pauses:
        times.append(times[-1] - timedelta(seconds=pause))
    wait = next_due_at(NOON, times) - NOON
    gathered = max(sum(1 for time in times if start - wait < time <= start) for start in times)
    assert gathered <= 30
    assert 15 * MINUTE <= wait <= 60 * MINUTE


@pytest.mark.parametrize(
    ("item_times", "wait"),
    [(every(4 * MINUTE), 150 * MINUTE), (None, 37.5 * MINUTE), ([], DAY)],
    ids=["active", "failed", "inactive"],
)
def test_polls_are_stretched_when_calls_run_low_but_the_daily_look_is_not(
    item_times: list[datetime] | None, wait: timedelta
) -> None:
    assert next_due_at(NOON, item_times, 2.5) == NOON + wait
