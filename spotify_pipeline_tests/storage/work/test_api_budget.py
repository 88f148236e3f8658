"""The shared budget on a real Postgres: no concurrency exceeds the quota."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, DateTime, Engine, func, literal, select, update

from spotify_pipeline.domain.quota import (
    PER_CENT,
    PERMIT_SECONDS,
    TRAVEL_SECONDS,
    Priority,
    Quota,
    throttle_reason,
)
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import api_budget

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
DAY = 86_400.0
PACE = Quota(calls_per_window=90, calls_per_day=0)

Asked = list[tuple[float, Priority, int]]


def empty(db: Connection) -> None:
    """Resets the budget: no calls were made."""
    db.execute(
        update(t.api_budget).values(
            rate_tat=NOON, day_slot=0, day_calls=[], blocked_until=None, blocked_reason=None
        )
    )


def take(
    db: Connection, quota: Quota, priority: Priority, calls: int = 1, now: datetime | None = None
) -> int:
    """Takes one call after the other, and returns how many of so many were admitted."""
    clock = api_budget.CLOCK if now is None else literal(now, DateTime(timezone=True))
    for taken in range(calls):
        if api_budget.take(db, quota, priority, now=clock):
            return taken
    return calls


def state_at(db: Connection, now: datetime) -> api_budget.BudgetState:
    return api_budget.read_state(db, now=literal(now, DateTime(timezone=True)))


def most_within(seconds: float, grants: Sequence[tuple[datetime, int]]) -> int:
    """By brute force: the most calls granted in any time of this length, its ends included."""
    span = timedelta(seconds=seconds)
    windows = [
        sum(calls for at, calls in grants if start <= at <= start + span) for start, _ in grants
    ]
    return max(windows, default=0)


def ask(db: Connection, quota: Quota, asked: Asked) -> list[tuple[datetime, int]]:
    """Takes after each pause (seconds); when nothing is granted, waits for the returned time."""
    empty(db)
    now, grants = NOON, []
    for pause, priority, calls in asked:
        now += timedelta(seconds=pause)
        taken = take(db, quota, priority, calls, now=now)
        if not taken:
            held_back = throttle_reason(state_at(db, now), quota, priority)
            assert held_back is not None
            if held_back.seconds >= DAY:
                continue
            # A millisecond, because instants are stored to the microsecond.
            now += timedelta(seconds=held_back.seconds + 0.001)
            taken = take(db, quota, priority, calls, now=now)
        assert 1 <= taken <= calls
        grants.append((now, taken))
    return grants


def asked(longest_pause: float) -> st.SearchStrategy[Asked]:
    """Questions one after the other, many of them in the same moment."""
    pauses = st.one_of(st.just(0.0), st.floats(0, longest_pause))
    return st.lists(st.tuples(pauses, st.sampled_from(sorted(PER_CENT)), st.integers(1, 5)))


def test_no_window_ever_holds_more_calls_than_the_limit(connection: Connection) -> None:
    @settings(max_examples=40)
    @given(calls=st.integers(1, 60), asked=asked(longest_pause=8))
    def holds(calls: int, asked: Asked) -> None:
        quota = Quota(calls, 0, window_seconds=10)
        # Not even if one call takes all the time that it may take, and another none.
        longest = quota.window_seconds + PERMIT_SECONDS + TRAVEL_SECONDS - 0.01
        assert most_within(longest, ask(connection, quota, asked)) <= calls

    holds()


def test_no_day_ever_holds_more_calls_than_the_limit(connection: Connection) -> None:
    @settings(max_examples=40)
    @given(calls=st.integers(1, 40), asked=asked(longest_pause=20_000))
    def holds(calls: int, asked: Asked) -> None:
        grants = ask(connection, Quota(0, calls), asked)
        assert most_within(DAY + PERMIT_SECONDS, grants) <= calls

    holds()


def test_after_a_silence_the_burst_goes_at_once_and_then_one_call_per_interval(
    connection: Connection,
) -> None:
    empty(connection)
    grants = [take(connection, PACE, "request", 5, now=NOON) for _ in range(3)]
    assert grants == [5, 4, 0]
    step = timedelta(seconds=PACE.interval_seconds)
    for n in range(1, 5):
        assert take(connection, PACE, "request", 5, now=NOON + n * step) == 1


def test_requests_find_room_where_plays_and_top_lists_wait(connection: Connection) -> None:
    empty(connection)
    asked: list[Priority] = ["tops", "tops", "plays", "plays", "request", "request"]
    grants = [take(connection, PACE, priority, 5, now=NOON) for priority in asked]
    assert grants == [5, 0, 2, 0, 2, 0]


def test_a_fifth_of_the_day_is_kept_for_requests(connection: Connection) -> None:
    empty(connection)
    quota = Quota(0, 100)
    taken = {
        priority: sum(take(connection, quota, priority, 5) for _ in range(30))
        for priority in ("tops", "plays", "request")
    }
    assert taken == {"tops": 60, "plays": 20, "request": 20}
    assert api_budget.read_state(connection).calls_of_day() == 100


def test_eight_concurrent_takers_get_exactly_the_quota(engine: Engine) -> None:
    quota = Quota(0, 200)

    def hammer(_: int) -> int:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            return sum(take(conn, quota, "request", 3) for _ in range(40))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(hammer, range(8))) == 200
    with engine.connect() as conn:
        assert api_budget.read_state(conn).calls_of_day() == 200


def test_a_clock_that_was_set_back_grants_no_extra_calls(connection: Connection) -> None:
    empty(connection)
    quota = Quota(0, 10)
    assert take(connection, quota, "request", 6, now=NOON) == 6
    assert take(connection, quota, "request", 6, now=NOON - timedelta(hours=3)) == 4
    assert take(connection, quota, "request", 1, now=NOON) == 0


def test_a_block_is_never_shortened(connection: Connection) -> None:
    def blocked() -> tuple[datetime | None, str | None]:
        state = api_budget.read_state(connection)
        return state.blocked_until, state.blocked_reason

    api_budget.block(connection, 3600, "QUOTA")
    long = blocked()
    api_budget.block(connection, 30, "RATE")
    assert blocked() == long
    api_budget.block(connection, 7200, "APP")
    assert blocked()[1] == "APP"
    assert blocked()[0] > long[0]


def test_no_call_is_admitted_before_a_block_has_passed(connection: Connection) -> None:
    empty(connection)
    for reason in ("RATE", "QUOTA"):
        connection.execute(
            update(t.api_budget).values(
                blocked_until=NOON + timedelta(seconds=30), blocked_reason=reason
            )
        )
        just_before = NOON + timedelta(seconds=29.999)
        assert take(connection, PACE, "request", now=just_before) == 0
        assert take(connection, PACE, "request", now=NOON + timedelta(seconds=30)) == 1


def test_after_a_block_of_the_app_one_process_probes(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.execute(update(t.api_budget).values(blocked_until=func.now(), blocked_reason="APP"))
        assert api_budget.read_state(conn).due_probe == "APP"

    def claim(_: int) -> bool:
        with engine.begin() as conn:
            assert take(conn, PACE, "request") == 0
            return api_budget.claim_probe(conn)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(8))) == [False] * 7 + [True]
    with engine.begin() as conn:
        state = api_budget.read_state(conn)
        assert (state.is_blocked, state.due_probe) == (True, None)
        assert api_budget.take(conn, PACE, "request", probing=True) is None
        assert api_budget.clear_block(conn, "APP")
        assert take(conn, PACE, "request") == 1


def test_clearing_a_block_of_one_kind_leaves_the_others(connection: Connection) -> None:
    api_budget.block(connection, 3600, "QUOTA")
    assert not api_budget.clear_block(connection, "APP")
    assert api_budget.read_state(connection).is_blocked
    assert api_budget.clear_block(connection)
    assert not api_budget.clear_block(connection)


def test_an_operator_sees_the_remaining_calls_and_the_block(connection: Connection) -> None:
    limited = load_settings({"SPOTIFY_PIPELINE_CALLS_PER_30S": "0"})
    quota = api_budget.quota_of(limited)
    take(connection, quota, "request", 30)
    seen = api_budget.read_state(connection)
    assert (seen.calls_of_day(), seen.calls_left(quota), quota.calls_per_day) == (30, 970, 1000)
    assert (quota.calls_per_window, seen.is_blocked, seen.blocked_reason) == (0, False, None)
    api_budget.block(connection, 100, "RATE")
    seen = api_budget.read_state(connection)
    assert (seen.is_blocked, seen.blocked_reason) == (True, "RATE")
    connection.execute(update(t.api_budget).values(blocked_until=func.now()))
    assert not api_budget.read_state(connection).is_blocked


def test_an_unused_budget_is_full(connection: Connection) -> None:
    assert connection.scalar(select(t.api_budget.c.day_calls)) == []
    assert api_budget.read_state(connection).calls_of_day() == 0
    assert take(connection, Quota(90, 1000), "request", 5) == 5


@pytest.mark.parametrize(
    "values",
    [
        {"rate_tat": func.now() + timedelta(hours=6)},
        {"blocked_until": func.now() + timedelta(days=40), "blocked_reason": "RATE"},
        {"blocked_until": func.now() + timedelta(days=40), "blocked_reason": "QUOTA"},
    ],
)
def test_an_impossible_future_instant_delays_no_call(
    connection: Connection, values: dict[str, object]
) -> None:
    connection.execute(update(t.api_budget).values(values))
    assert api_budget.ignored_instants(connection) == [next(iter(values))]
    assert throttle_reason(api_budget.read_state(connection), PACE, "plays") is None
    assert take(connection, PACE, "request") == 1
    api_budget.block(connection, 60, "RATE")
    state = api_budget.read_state(connection)
    assert 0 < (state.blocked_until - state.now).total_seconds() <= 60
    assert take(connection, PACE, "request") == 0


def test_a_block_of_the_app_that_ends_in_six_hours_is_probed_now(connection: Connection) -> None:
    until = func.now() + timedelta(hours=6)
    connection.execute(update(t.api_budget).values(blocked_until=until, blocked_reason="APP"))
    assert api_budget.read_state(connection).due_probe == "APP"
    assert api_budget.claim_probe(connection)
    assert not api_budget.claim_probe(connection)
    assert api_budget.ignored_instants(connection) == []


def test_calls_counted_under_a_slot_of_the_future_are_forgotten_after_a_day(
    connection: Connection,
) -> None:
    empty(connection)
    quota = Quota(0, 10)
    assert take(connection, quota, "request", 6, now=NOON + timedelta(days=40)) == 6
    assert take(connection, quota, "request", 6, now=NOON) == 4
    assert take(connection, quota, "request", 6, now=NOON + timedelta(hours=23)) == 0
    assert take(connection, quota, "request", 6, now=NOON + timedelta(hours=25)) == 6


def test_the_longest_possible_wait_of_the_pace_is_not_rejected(connection: Connection) -> None:
    for calls in (1, 2, 9, 10, 90, 1000):
        empty(connection)
        quota = Quota(calls, 0)
        while take(connection, quota, "request", 5, now=NOON):
            pass
        held_back = throttle_reason(state_at(connection, NOON), quota, "request")
        assert held_back is not None
        assert held_back.reason == "PACE"
