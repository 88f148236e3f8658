"""The pure decisions about waiting."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.spotify.http import backoff_seconds, retry_after_seconds

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@given(
    failures=st.integers(1, 10_000),
    fraction=st.floats(0, 1, exclude_max=True),
)
def test_a_pause_lies_between_zero_and_the_growing_bound(failures, fraction):
    bound = min(8.0, 0.5 * 2 ** min(failures - 1, 40))
    assert 0 <= backoff_seconds(failures, fraction) <= bound


@given(st.integers(1, 1000))
def test_the_bound_never_shrinks_with_more_failures(failures):
    assert backoff_seconds(failures, 0.99) <= backoff_seconds(failures + 1, 0.99)


def test_jitter_is_full_so_that_callers_who_failed_together_spread_out():
    assert backoff_seconds(3, 0.0) == 0
    assert backoff_seconds(3, 0.5) == 1.0


@given(st.text() | st.integers().map(str) | st.floats().map(str) | st.none())
def test_any_retry_after_gives_a_wait_between_one_second_and_a_week(header):
    assert 1 <= retry_after_seconds(header, NOW) <= 7 * 86_400


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("1", 1),
        (" 30 ", 30),
        ("0", 1),
        ("1.2", 2),
        ("85771", 85_771),
        ("999999999999", 7 * 86_400),
        ("", 30),
        (None, 30),
        ("-5", 30),
        ("soon", 30),
        ("inf", 30),
        ("1_000", 30),
        ("٣", 30),
        ("Fri, 20 Nov 2026 12:01:30 GMT", 90),
        ("Fri, 20 Nov 2026 13:00:00 +0100", 1),
        ("Fri, 20 Nov 2026 12:01:30 -0000", 90),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 1),
        ("Fri, 31 Feb 2026 00:00:00 GMT", 30),
        ("Fri, 20 Nov 99999 12:00:00 GMT", 30),
        ("Fri, 20 Nov 2026 12:00:00 +99999999999999999999", 30),
    ],
)
def test_retry_after_is_read_as(header, seconds):
    assert retry_after_seconds(header, NOW) == seconds


@given(st.integers(1, 7 * 86_400))
def test_seconds_and_the_same_instant_as_a_date_mean_the_same(seconds):
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_seconds(date, NOW) == retry_after_seconds(str(seconds), NOW) == seconds
