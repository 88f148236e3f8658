from datetime import date, datetime, timedelta
from itertools import pairwise
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.listening.coverage import (
    COMPLETE_AFTER,
    Completeness,
    CoverageChange,
    Interval,
    KnownCoverage,
    apply_page,
    completeness,
    is_short_page,
    local_day,
    merge,
)
from spotify_pipeline.domain.zones import all_zones, check_zone
from spotify_pipeline_tests.domain.builders import utc

HOUR = timedelta(hours=1)
MOMENT = datetime.resolution


def at(hour: float) -> datetime:
    """An hour of one Sunday; more than 24 is later."""
    return utc("2026-03-01") + hour * HOUR


def span(start: float, end: float) -> Interval:
    return Interval(at(start), at(end))


def known(
    *covers: Interval,
    gaps: tuple[Interval, ...] = (),
    seen: tuple[float, ...] = (),
    not_shown: tuple[float, ...] = (),
) -> KnownCoverage:
    return KnownCoverage(covers, gaps, frozenset(map(at, seen)), frozenset(map(at, not_shown)))


def page(
    *items: float, fetched: float, before: KnownCoverage, is_short: bool = False
) -> CoverageChange:
    return apply_page([at(item) for item in items], at(fetched), before, is_short=is_short)


A_WEEK = 7 * 24

# --- one page, by hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "readable", "has_more", "is_short"),
    [
        (0, 0, False, True),
        (0, 0, True, True),
        (1, 1, False, True),
        (40, 40, False, True),
        (41, 41, False, False),
        (49, 49, False, False),  # a full window with an item missing
        (50, 50, False, False),
        (40, 40, True, False),
        (10, 9, False, False),  # an unreadable item may be any play
        (3, 0, False, False),
    ],
)
def test_a_page_is_short_when_empty_or_ten_items_below_what_was_asked_for(
    items, readable, has_more, is_short
):
    assert is_short_page(items, readable, has_more=has_more) is is_short


def test_a_first_page_covers_from_its_oldest_item_and_opens_no_gap():
    assert page(9, 11, 10, fetched=12, before=known()) == CoverageChange(
        covered=(span(9, 12),), overlapped=False
    )


@pytest.mark.parametrize("items", [(), (9, 10)])
def test_a_short_page_covers_the_7_days_that_spotify_serves_and_no_more(items):
    change = page(*items, fetched=12, before=known(), is_short=True)
    assert change == CoverageChange(covered=(span(12 - A_WEEK, 12),), overlapped=False)


def test_a_short_page_with_an_older_item_covers_from_there():
    change = page(-A_WEEK, fetched=12, before=known(), is_short=True)
    assert change.covered == (span(-A_WEEK, 12),)


def test_a_page_of_unreadable_items_covers_nothing():
    before = known(span(9, 12), gaps=(span(3, 4),))
    assert page(fetched=20, before=before) == CoverageChange(
        covered=(span(9, 12),), overlapped=False
    )


@pytest.mark.parametrize("items", [(), (15, 16)])
def test_a_short_page_without_a_play_shown_before_covers_from_its_oldest_item_only(items):
    before = known(span(9, 12), gaps=(span(3, 4),), not_shown=(11,))
    change = page(*items, fetched=20, before=before, is_short=True)
    assert change.closed == ()
    if items:
        assert change.covered == (span(9, 12), span(15, 20))
        assert change.opened == span(12, 15)
    else:
        assert (change.covered, change.opened) == (before.covered, None)


@pytest.mark.parametrize("not_shown", [(15.5,), (20 - A_WEEK,), (20.05 - A_WEEK,), (-500,)])
def test_a_play_that_is_newer_than_the_oldest_item_or_left_the_window_contradicts_nothing(
    not_shown,
):
    before = known(span(9, 12), not_shown=not_shown)
    change = page(15, 16, fetched=20, before=before, is_short=True)
    assert change.covered == (span(20 - A_WEEK, 20),)
    assert change.overlapped


def test_a_quiet_user_who_is_polled_weekly_has_no_gap():
    state = known()
    for week in range(5):
        change = page(fetched=week * A_WEEK, before=state, is_short=True)
        assert change.opened is None
        state = known(*change.covered)
    change = page(5 * A_WEEK - 1, fetched=5 * A_WEEK, before=state, is_short=True)
    assert change == CoverageChange(covered=(span(-A_WEEK, 5 * A_WEEK),), overlapped=True)


def test_a_user_who_plays_again_after_ten_silent_days_has_no_gap():
    state = known(span(-2, 0), seen=())
    for hour in range(2, 240, 2):
        # The plays of the first days are still shown; after a week the page is empty.
        items = (-1,) if hour < A_WEEK - 1 else ()
        state = known(*page(*items, fetched=hour, before=state, is_short=True).covered)
    change = page(239, fetched=240, before=state, is_short=True)
    assert (change.opened, len(change.covered)) == (None, 1)


@pytest.mark.parametrize(
    ("oldest", "seen"),
    [
        (12, ()),  # the end of the covered interval
        (9, ()),
        (8, (10,)),
        (10.5, (10.5,)),
    ],
)
def test_a_page_that_overlaps_extends_the_coverage_and_opens_no_gap(oldest, seen):
    before = known(span(9, 12), seen=seen)
    change = page(oldest, *seen, 15, fetched=16, before=before)
    assert change == CoverageChange(covered=(span(min(oldest, 9), 16),), overlapped=True)


def test_a_page_without_overlap_opens_a_gap_from_the_end_of_the_coverage_before_it():
    change = page(12.001, 13, fetched=14, before=known(span(9, 12)))
    assert change == CoverageChange(
        covered=(span(9, 12), span(12.001, 14)), overlapped=False, opened=span(12, 12.001)
    )


def test_an_empty_page_opens_no_gap():
    change = page(fetched=500, before=known(span(9, 12)), is_short=True)
    assert change == CoverageChange(
        covered=(span(9, 12), span(500 - A_WEEK, 500)), overlapped=False
    )


def test_an_item_seen_in_the_future_of_its_fetch_leaves_no_hole_in_the_coverage():
    # Spotify's clock is 3 minutes ahead of ours: a play of its 12:02 was on our page of 12:00.
    change = page(12.03, 13, fetched=14, before=known(span(9, 12), seen=(12.03,)))
    assert change == CoverageChange(covered=(span(9, 14),), overlapped=True)


def test_a_page_of_future_plays_only_covers_an_instant():
    change = page(500, fetched=14, before=known(span(9, 12)))
    assert change.covered == (span(9, 12), span(14, 14))
    assert change.opened == Interval(at(12), at(14) + timedelta(minutes=5))


def test_a_gap_ends_with_the_oldest_item_also_when_that_lies_after_the_fetch():
    # Our clock is behind: what ended at 14:02 may have been lost on a page of our 14:00.
    change = page(14.05, fetched=14, before=known(span(9, 12)))
    assert change.opened == span(12, 14.05)


def test_no_gap_ends_before_its_start():
    # An import may cover a later interval than the page.
    assert page(12, fetched=14, before=known(span(20, 30))).opened is None


@pytest.mark.parametrize(("oldest", "closes"), [(4, True), (2, True), (4.001, False)])
def test_a_gap_closes_when_a_page_reaches_back_to_its_start(oldest, closes):
    before = known(span(1, 4), span(9, 12), gaps=(span(4, 9),), seen=(11,))
    change = page(oldest, 11, 13, fetched=14, before=before)
    assert change.closed == ((span(4, 9),) if closes else ())


def test_one_page_can_close_several_gaps():
    gaps = (span(4, 5), span(7, 9))
    before = known(span(2, 4), span(5, 7), span(9, 12), gaps=(*gaps, span(0, 1)))
    assert page(2.5, 13, fetched=14, before=before).closed == gaps


# --- covered intervals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("covers", "merged"),
    [
        ([], []),
        ([(3, 4), (1, 2)], [(1, 2), (3, 4)]),
        ([(1, 2), (2, 3)], [(1, 3)]),
        ([(1, 9), (2, 3), (4, 5)], [(1, 9)]),
        ([(1, 2), (1, 2), (1, 3)], [(1, 3)]),
        ([(1, 1), (2, 2)], [(1, 1), (2, 2)]),
    ],
)
def test_covered_intervals_that_share_an_instant_are_merged(covers, merged):
    assert merge([span(*cover) for cover in covers]) == tuple(span(*cover) for cover in merged)


_hours = st.integers(0, 30)
_intervals = st.tuples(_hours, _hours).map(lambda ends: span(min(ends), max(ends)))


@given(st.lists(_intervals))
def test_merging_is_the_union(covers):
    merged = merge(covers)
    # Intervals begin and end on whole hours, so halves represent all instants in between.
    for half in range(61):
        instant = at(half / 2)
        assert any(c.contains(instant) for c in merged) == any(c.contains(instant) for c in covers)
    assert all(before.end < after.start for before, after in pairwise(merged))
    assert merge(merged) == merged


# --- local days ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "day", "start", "end"),
    [
        ("UTC", "2026-03-01", "2026-03-01 00:00", "2026-03-02 00:00"),
        ("Asia/Kathmandu", "2026-03-01", "2026-02-28 18:15", "2026-03-01 18:15"),
        # 23 and 25 hours, and half an hour less and more.
        ("America/New_York", "2026-03-08", "2026-03-08 05:00", "2026-03-09 04:00"),
        ("America/New_York", "2026-11-01", "2026-11-01 04:00", "2026-11-02 05:00"),
        ("Australia/Lord_Howe", "2026-10-04", "2026-10-03 13:30", "2026-10-04 13:00"),
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04 13:00", "2026-04-05 13:30"),
        # The clock went from midnight to 1:00.
        ("America/Sao_Paulo", "2018-11-03", "2018-11-03 03:00", "2018-11-04 03:00"),
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04 03:00", "2018-11-05 02:00"),
        # It went from midnight to 23:00, and at 1:00 to midnight.
        ("America/Sao_Paulo", "2018-02-17", "2018-02-17 02:00", "2018-02-18 03:00"),
        ("America/Havana", "2024-11-02", "2024-11-02 04:00", "2024-11-03 04:00"),
        ("America/Havana", "2024-11-03", "2024-11-03 04:00", "2024-11-04 05:00"),
        # At 0:01 it went back to 23:01: for a minute it had been the 7th already.
        ("America/St_Johns", "2010-11-06", "2010-11-06 02:30", "2010-11-07 03:30"),
        ("America/St_Johns", "2010-11-07", "2010-11-07 02:30", "2010-11-08 03:30"),
        # Samoa crossed the date line and left the 30th out.
        ("Pacific/Apia", "2011-12-29", "2011-12-29 10:00", "2011-12-30 10:00"),
        ("Pacific/Apia", "2011-12-30", "2011-12-30 10:00", "2011-12-30 10:00"),
        ("Pacific/Apia", "2011-12-31", "2011-12-30 10:00", "2011-12-31 10:00"),
    ],
)
def test_a_local_day_has_the_length_that_its_zone_gives_it(zone, day, start, end):
    assert local_day(date.fromisoformat(day), check_zone(zone)) == Interval(utc(start), utc(end))


def _shift_days() -> list[tuple[str, date]]:
    """Dates from 2006 to 2030 near clock changes, in a third of all zones."""
    shifts = []
    for name in all_zones()[::3]:
        zone = check_zone(name)
        day = date(2006, 1, 1)
        while day.year < 2031:
            later = day + timedelta(days=7)
            if _offset(day, zone) != _offset(later, zone):
                shifts += [(name, day + timedelta(days=n)) for n in range(8)]
            day = later
    return shifts


def _offset(day: date, zone: ZoneInfo) -> timedelta | None:
    return datetime(day.year, day.month, day.day, 12, tzinfo=zone).utcoffset()


def test_a_local_day_holds_all_its_instants_and_begins_and_ends_with_one():
    for name, day in Random(7).sample(_shift_days(), 5_000):
        zone = check_zone(name)
        whole = local_day(day, zone)
        dates = [
            instant.astimezone(zone).date()
            for instant in (
                whole.start - MOMENT,
                whole.start,
                whole.end - MOMENT,
                whole.end,
            )
        ]
        if whole.start == whole.end:
            assert day not in dates, (name, day)
        else:
            assert [date_ == day for date_ in dates] == [False, True, True, False], (name, day)


# --- completeness -------------------------------------------------------------------------------

DAY = span(24, 48)
WHOLE = (span(0, 60),)
LATE = DAY.end + COMPLETE_AFTER


def day_completeness(
    covers=WHOLE, gaps=(), fetched_at: datetime | None = LATE, has_play=True
) -> Completeness:
    return completeness(DAY, covers, gaps, fetched_at, has_play=has_play)


@pytest.mark.parametrize("has_play", [True, False])
def test_a_day_is_complete_6_hours_after_its_end_and_not_before(has_play):
    assert day_completeness(fetched_at=LATE, has_play=has_play) == "complete"
    assert day_completeness(fetched_at=LATE - MOMENT, has_play=has_play) == "at_least"
    assert day_completeness(fetched_at=None, has_play=has_play) == "at_least"


def test_today_is_never_complete():
    for hour in range(25):
        assert day_completeness(fetched_at=DAY.start + hour * HOUR) == "at_least"


@pytest.mark.parametrize(
    ("covers", "expected"),
    [
        ([(24, 48)], "complete"),
        ([(0, 48)], "complete"),
        ([(24.001, 60)], "at_least"),
        ([(0, 47.999)], "at_least"),
        ([(0, 36), (36.001, 60)], "at_least"),  # two intervals are not one
    ],
)
def test_a_complete_day_lies_in_one_covered_interval(covers, expected):
    assert day_completeness(covers=[span(*cover) for cover in covers]) == expected


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        ((30, 31), "at_least"),
        ((0, 60), "at_least"),
        ((20, 24), "at_least"),  # it ends with the day's first instant
        ((48, 50), "at_least"),
        ((20, 23.999), "complete"),
        ((48.001, 50), "complete"),
    ],
)
def test_a_complete_day_is_touched_by_no_open_gap(gap, expected):
    assert day_completeness(gaps=[span(*gap)]) == expected


@pytest.mark.parametrize(
    ("covers", "has_play", "expected"),
    [
        ([], True, "at_least"),
        ([], False, "unknown"),
        ([(0, 23), (49, 60)], False, "unknown"),
        ([(0, 24)], False, "at_least"),
        ([(47, 60)], False, "at_least"),
        ([(30, 31)], False, "at_least"),
    ],
)
def test_without_a_play_or_coverage_a_day_is_unknown(covers, has_play, expected):
    assert (
        day_completeness(covers=[span(*cover) for cover in covers], has_play=has_play) == expected
    )


@given(
    covers=st.lists(_intervals, max_size=4),
    gaps=st.lists(_intervals, max_size=3),
    fetched=st.integers(0, 60),
    has_play=st.booleans(),
)
def test_no_day_is_complete_while_an_open_gap_touches_it(covers, gaps, fetched, has_play):
    day = span(6, 18)
    said = completeness(day, merge(covers), gaps, at(fetched), has_play=has_play)
    touched = any(gap.start <= day.end and gap.end >= day.start for gap in gaps)
    covered = any(cover.start <= day.start and cover.end >= day.end for cover in merge(covers))
    assert (said == "complete") == (covered and not touched and fetched >= 24)
    assert (said == "unknown") == (
        not has_play and not any(c.start <= day.end and c.end >= day.start for c in covers)
    )
