"""How the quota is shared between kinds of calls, without a database."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.outcome import FETCHED, RECENTLY_PLAYED
from spotify_pipeline.domain.quota import (
    SLOT_SECONDS,
    SLOTS,
    BlockReason,
    BudgetState,
    Priority,
    Quota,
    ThrottleReason,
    due_stretch,
    priority_of,
    throttle_reason,
)

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
NOON_SLOT = int(NOON.timestamp()) // SLOT_SECONDS
DAY = Quota(calls_per_window=0, calls_per_day=1000)


def state(
    *calls: int,
    slot: int = NOON_SLOT,
    tat: datetime = NOON,
    block: tuple[BlockReason, float] | None = None,
) -> BudgetState:
    """The row at noon: calls per slot, newest first; a block that ends in so many seconds."""
    until = NOON + timedelta(seconds=block[1]) if block else None
    return BudgetState(NOON, tat, slot, calls, until, block[0] if block else None)


def test_scheduled_calls_have_a_priority_for_plays_and_one_for_top_lists() -> None:
    assert {priority_of(step, scheduled=False) for step in FETCHED} == {"request"}
    assert priority_of(RECENTLY_PLAYED, scheduled=True) == "plays"
    assert {priority_of(step, scheduled=True) for step in FETCHED[1:]} == {"tops"}


@given(calls=st.integers(1, 10_000), window=st.floats(0.1, 3600))
def test_the_burst_and_what_follows_in_a_window_are_at_most_the_limit(
    calls: int, window: float
) -> None:
    quota = Quota(calls, 0, window)
    assert 1 <= quota.burst <= calls
    assert quota.burst + int(window / quota.interval_seconds) <= calls
    # And at least 90 % of it, if two seconds of latency are little.
    if calls >= 20 and window >= 30:
        assert quota.burst + window / quota.interval_seconds >= 0.9 * calls


def test_the_default_limit_lets_one_sync_go_at_once_and_75_calls_in_30_seconds() -> None:
    quota = Quota(90, 1000)
    assert quota.burst >= len(FETCHED)
    assert 30 / quota.interval_seconds > 75


def test_calls_of_a_day_leave_the_window_slot_by_slot() -> None:
    assert state(1, 2, 3).calls_of_day() == 6
    assert state(1, 2, 3, slot=NOON_SLOT - 1).slots()[:4] == [0, 1, 2, 3]
    assert state(*[1] * SLOTS, slot=NOON_SLOT - 10).calls_of_day() == SLOTS - 10
    assert state(7, slot=NOON_SLOT - SLOTS).calls_of_day() == 0
    # Calls of 24 hours ago may still be in the window.
    assert state(7, slot=NOON_SLOT - 96).calls_of_day() == 7


@pytest.mark.parametrize(
    ("spent", "refused"),
    [(599, set()), (600, {"tops"}), (800, {"tops", "plays"}), (1000, {"tops", "plays", "request"})],
)
def test_top_lists_stop_first_and_a_fifth_of_the_day_is_kept_for_requests(
    spent: int, refused: set[Priority]
) -> None:
    priorities: tuple[Priority, ...] = ("request", "plays", "tops")
    hindered = {p: throttle_reason(state(spent), DAY, p) for p in priorities}
    assert {p for p, found in hindered.items() if found} == refused
    assert {found.reason for found in hindered.values() if found} <= {"DAY"}


def test_the_throttle_reason_says_when_the_day_has_room_again() -> None:
    spent = state(0, 400, 600)
    assert throttle_reason(spent, DAY, "request") == ThrottleReason(
        "DAY", (SLOTS - 2) * SLOT_SECONDS
    )
    # The oldest 600 leave the window first, and plays may use up to 800.
    assert throttle_reason(spent, DAY, "plays") == ThrottleReason("DAY", (SLOTS - 2) * SLOT_SECONDS)
    assert throttle_reason(state(0, 800, 200), DAY, "tops") == ThrottleReason(
        "DAY", (SLOTS - 1) * SLOT_SECONDS
    )


def test_a_priority_without_a_share_of_the_day_is_always_refused() -> None:
    one = Quota(0, 1)
    assert throttle_reason(state(), one, "request") is None
    assert throttle_reason(state(), one, "plays") == ThrottleReason("DAY", 86_400)


def test_without_limits_only_a_block_holds_back() -> None:
    free = Quota(0, 0)
    late = NOON + timedelta(days=1)
    assert throttle_reason(state(10**9, tat=late), free, "tops") is None
    assert throttle_reason(state(block=("QUOTA", 5)), free, "tops") == ThrottleReason("QUOTA", 5)


@pytest.mark.parametrize("reason", ["RATE", "QUOTA", "APP"])
def test_a_block_delays_all_calls_until_it_ends(reason: BlockReason) -> None:
    for priority in ("request", "plays", "tops", None):
        assert throttle_reason(state(block=(reason, 7)), DAY, priority) == ThrottleReason(reason, 7)
        assert throttle_reason(state(block=(reason, 0)), DAY, priority) is None


def test_calls_that_spotify_does_not_count_are_held_back_by_blocks_only() -> None:
    spent = state(1000, tat=NOON + timedelta(hours=1))
    assert throttle_reason(spent, Quota(90, 1000), None) is None


def test_a_probe_passes_a_block_of_the_app_and_no_other() -> None:
    assert throttle_reason(state(block=("APP", 3600)), DAY, "plays", probing=True) is None
    assert throttle_reason(state(block=("RATE", 9)), DAY, "plays", probing=True) == ThrottleReason(
        "RATE", 9
    )


@pytest.mark.parametrize(
    ("spent", "times"), [(0, 1), (400, 1), (600, 2), (700, 4), (790, 4), (800, 4), (1000, 4)]
)
def test_polls_wait_longer_when_less_than_half_of_the_calls_for_plays_are_left(
    spent: int, times: float
) -> None:
    assert due_stretch(state(spent), DAY) == pytest.approx(times)


@pytest.mark.parametrize("calls_per_day", [1000, 2000, 25_000, 300_000])
def test_as_many_users_are_served_as_settle_at_polls_an_hour_or_two_apart(
    calls_per_day: int,
) -> None:
    quota = Quota(0, calls_per_day)

    def settled(users: int) -> int:
        """Calls of 24 hours at which polls and lists of so many users neither grow nor shrink."""
        low, high = 0, 30 * users
        while low < high:
            calls = (low + high + 1) // 2
            made = users * (24 / due_stretch(state(calls), quota) + 6)
            low, high = (calls, high) if made >= calls else (low, calls - 1)
        return low

    hourly, every_2_hours = quota.users_served(1), quota.users_served(2)
    assert due_stretch(state(settled(hourly)), quota) == 1
    assert due_stretch(state(settled(hourly + 1)), quota) > 1
    assert settled(every_2_hours) <= quota.day_of("tops") < settled(every_2_hours + 1)
    assert due_stretch(state(settled(every_2_hours)), quota) <= 2


def test_polls_wait_no_longer_without_a_day_limit() -> None:
    assert due_stretch(state(10**6), Quota(90, 0)) == 1
