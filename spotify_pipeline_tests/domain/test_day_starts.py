"""The list of day starts agrees with the zone's own rules on every day."""

import itertools
from bisect import bisect_right
from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta

from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.listening.coverage import local_day
from spotify_pipeline.domain.zones import (
    FIRST,
    LAST,
    DayStart,
    all_day_starts,
    all_zones,
    check_zone,
)

DAY = timedelta(days=1)

STEPS: dict[str, list[DayStart]] = defaultdict(list)
for step in all_day_starts():
    STEPS[step.timezone].append(step)


def start_of(name: str, day: date) -> datetime:
    """The start that SQL reads from the list."""
    number = bisect_right([step.since for step in STEPS[name]], day) - 1
    return datetime.combine(day, time(), UTC) + STEPS[name][number].begins


def assert_same(name: str, day: date) -> None:
    span = local_day(day, check_zone(name))
    assert (start_of(name, day), start_of(name, day + DAY)) == (span.start, span.end), (name, day)


def test_every_zone_has_its_steps_in_order_and_none_repeats() -> None:
    assert list(STEPS) == list(all_zones())
    for steps in STEPS.values():
        assert steps[0].since == FIRST
        dates = [step.since for step in steps]
        assert dates == sorted(set(dates))
        assert all(one.begins != next_.begins for one, next_ in itertools.pairwise(steps))


def test_the_days_around_every_change_of_clocks_begin_and_end_as_the_zone_says() -> None:
    for steps in STEPS.values():
        for step in steps[1:]:
            assert_same(step.timezone, step.since - DAY)
            assert_same(step.timezone, step.since)


@given(st.sampled_from(all_zones()), st.dates(FIRST, LAST - DAY))
def test_any_day_begins_and_ends_as_its_zone_says(name: str, day: date) -> None:
    assert_same(name, day)
