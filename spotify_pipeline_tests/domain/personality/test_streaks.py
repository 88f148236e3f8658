from datetime import date, timedelta
from itertools import groupby

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.personality.streaks import streaks
from spotify_pipeline_tests.domain.builders import records

TODAY = date(2026, 11, 20)
COLUMNS = ["user_id", "date", "top_artist_id"]


def history(artists: str, ends: date = TODAY, user_id: str = "anna") -> pd.DataFrame:
    """A history as one letter per date until `ends`: an artist, `.` no play, `-` no top artist."""
    rows = [
        (user_id, ends - timedelta(days=ago), None if artist == "-" else artist)
        for ago, artist in enumerate(reversed(artists))
        if artist != "."
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def of(artists: str, ends: date = TODAY) -> tuple[int, str | None, int, str | None]:
    (row,) = records(streaks(history(artists, ends), {"anna": TODAY}))
    return (
        row["longest_streak"],
        row["longest_streak_artist_id"],
        row["current_streak"],
        row["streak_artist_id"],
    )


@pytest.mark.parametrize(
    ("artists", "expected"),
    [
        ("", (0, None, 0, None)),
        ("a", (0, None, 0, None)),
        ("ab", (0, None, 0, None)),
        ("aa", (2, "a", 2, "a")),
        ("aabbb", (3, "b", 3, "b")),
        ("aaabb", (3, "a", 2, "b")),
        # A run until yesterday is current, one until the day before is not.
        ("aaa.", (3, "a", 3, "a")),
        ("aaa..", (3, "a", 0, None)),
        # A date without plays ends a run, and so does one with only skips.
        ("aaa.aa", (3, "a", 2, "a")),
        ("aaa-aa", (3, "a", 2, "a")),
        # Today is not over: one day of another artist does not end yesterday's run ...
        ("aaab", (3, "a", 3, "a")),
        # ... but two do, even of different artists.
        ("aaacc", (3, "a", 2, "c")),
        ("aaabc", (3, "a", 0, None)),
        # Of equally long runs the earlier counts.
        ("aa.bb..", (2, "a", 0, None)),
        ("aa.bbb..", (3, "b", 0, None)),
    ],
)
def test_streaks_by_hand(artists, expected):
    assert of(artists) == expected


def test_a_play_that_already_fell_on_tomorrow_keeps_the_streak():
    """A clock a few minutes ahead of ours just before midnight."""
    assert of("aaa", ends=TODAY + timedelta(days=1)) == (3, "a", 3, "a")


def test_a_streak_crosses_months_years_and_leap_days():
    days = history("a" * 400, ends=date(2024, 3, 1))
    (row,) = records(streaks(days, {"anna": date(2024, 3, 1)}))
    assert row["longest_streak"] == row["current_streak"] == 400


def test_users_neither_share_runs_nor_todays():
    """Anna's last day and Bert's first are adjacent in a sorted table."""
    days = pd.concat(
        [history("aa", TODAY), history("aa", TODAY + timedelta(days=2), user_id="bert")]
    )
    rows = records(streaks(days, {"cleo": TODAY, "bert": TODAY + timedelta(9), "anna": TODAY}))
    assert [(row["user_id"], row["longest_streak"], row["current_streak"]) for row in rows] == [
        ("cleo", 0, 0),
        ("bert", 2, 0),
        ("anna", 2, 2),
    ]
    assert [row["days"] for row in rows] == [0, 2, 2]
    assert rows[0]["streak_artist_id"] is None


def test_days_of_other_users_are_ignored():
    assert len(streaks(history("aaa"), {})) == 0


def _plainly(artists: str) -> tuple[int, int]:
    """Longest and current run, by a loop over the letters."""
    runs, at = [], 0
    for artist, letters in groupby(artists):
        length = len(list(letters))
        at += length
        if artist not in ".-" and length >= 2:
            runs.append((length, at))
    recent = [length for length, end in runs if end >= len(artists) - 1]
    return max((length for length, _ in runs), default=0), recent[-1] if recent else 0


@given(st.text("ab.-", max_size=30), st.randoms(use_true_random=False))
def test_streaks_equal_a_plain_loop_for_any_history_in_any_order(artists, random):
    days = history(artists)
    order = list(range(len(days)))
    random.shuffle(order)
    (row,) = records(streaks(days.iloc[order], {"anna": TODAY}))
    assert (row["longest_streak"], row["current_streak"]) == _plainly(artists)
    assert (row["longest_streak_artist_id"] is None) == (row["longest_streak"] == 0)
    assert (row["streak_artist_id"] is None) == (row["current_streak"] == 0)
