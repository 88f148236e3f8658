"""Streaks: runs of consecutive local dates with the same top artist."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd

from spotify_pipeline.domain.listening.frames import (
    Bools,
    Integers,
    TextCodes,
    dates,
    day_numbers,
    objects,
    positions,
)

# One day is not a streak.
SHORTEST = 2

# Late plays change days of the last few hours; older days change by imports and rebuilds only.
STREAKS_FINAL_AFTER = timedelta(days=35)


@dataclass(frozen=True, slots=True)
class Past:
    """Summary of a user's days before `before`. No streak crosses this date."""

    before: date
    # Number of days with a top artist.
    days: int = 0
    longest: int = 0
    longest_artist_id: str | None = None


def streaks(
    days: pd.DataFrame, today: Mapping[str, date], past: Mapping[str, Past] | None = None
) -> pd.DataFrame:
    """The longest streak ever and the current one: one row per user of `today`, in its order.

    `days`: columns user_id, date (datetime.date), top_artist_id (text or missing), in any order:
    the whole history, or for a user with a `past` the days after it; the past must end before
    yesterday. A date without a row, or without a top artist, ends a streak. Runs of one day do not
    count.

    Columns: user_id; days (int64), the dates with a top artist; longest_streak, current_streak
    (int64, 0: none); longest_streak_artist_id, streak_artist_id (text, None: none).

    Of two longest streaks of the same length the earlier one counts. The current streak is the
    latest run that ends today or yesterday; today is not over, so one day of another artist today
    does not end yesterday's streak.
    """
    users = pd.Index(list(today), dtype=object)
    every, artist = _runs_of(users, days)
    counts = np.bincount(every.user, weights=every.length, minlength=len(users))
    runs = every.where(every.length >= SHORTEST)
    longest = runs.first_per_user(-runs.length, runs.last)
    lengths, artist_ids = _per_user(longest, artist, len(users))
    for place, user_id in enumerate(users):
        known = (past or {}).get(user_id, _NOTHING)
        counts[place] += known.days
        if known.longest and known.longest >= lengths[place]:
            lengths[place], artist_ids[place] = known.longest, known.longest_artist_id
    yesterday = day_numbers(objects(list(today.values()))) - 1
    going_on = runs.where(runs.last >= yesterday[runs.user])
    current = going_on.first_per_user(-going_on.last)
    current_lengths, current_ids = _per_user(current, artist, len(users))
    return pd.DataFrame(
        {
            "user_id": objects(users),
            "days": counts.astype(np.int64),
            "longest_streak": lengths,
            "longest_streak_artist_id": artist_ids,
            "current_streak": current_lengths,
            "streak_artist_id": current_ids,
        }
    )


def sum_up(
    days: pd.DataFrame, today: Mapping[str, date], past: Mapping[str, Past]
) -> dict[str, Past]:
    """Summarizes each user's past up to a streak that began 35 days ago or earlier.

    `days`, `today` and `past` as for `streaks`. Users without such a streak keep their past.
    """
    users = pd.Index(list(today), dtype=object)
    runs, _ = _runs_of(users, days)
    settled = day_numbers(objects([day - STREAKS_FINAL_AFTER for day in today.values()]))
    begun = runs.where(runs.first <= settled[runs.user])
    last = begun.first_per_user(-begun.first)
    before = dict(zip(users[last.user], dates(last.first), strict=True))
    is_gone = np.array(
        [
            day < before.get(user_id, date.min)
            for user_id, day in zip(days["user_id"], days["date"], strict=True)
        ],
        dtype=np.bool_,
    )
    summed = streaks(days[is_gone], {user_id: today[user_id] for user_id in before}, past)
    columns = ("user_id", "days", "longest_streak", "longest_streak_artist_id")
    rows = zip(*(summed[name].tolist() for name in columns), strict=True)
    return dict(past) | {row[0]: Past(before[row[0]], *row[1:]) for row in rows}


_NOTHING = Past(date.min)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of days: user and artist (codes), last (day number), length (days)."""

    user: Integers
    artist: Integers
    last: Integers
    length: Integers

    @property
    def first(self) -> Integers:
        """The day number of each run's first day."""
        return self.last - self.length + 1

    def where(self, rows: Bools | Integers) -> "_Runs":
        """These runs only."""
        return _Runs(self.user[rows], self.artist[rows], self.last[rows], self.length[rows])

    def first_per_user(self, *by: Integers) -> "_Runs":
        """Each user's first run in ascending order of these columns."""
        order = np.lexsort((*by[::-1], self.user))
        _, first = np.unique(self.user[order], return_index=True)
        return self.where(order[first])


def _per_user(runs: _Runs, artist: TextCodes, users: int) -> tuple[Integers, pd.Series]:
    """Length (0: none) and artist (None) of each user's one run."""
    lengths, codes = np.zeros(users, dtype=np.int64), np.full(users, -1)
    lengths[runs.user], codes[runs.user] = runs.length, runs.artist
    return lengths, artist.texts(codes)


def _runs_of(users: pd.Index, days: pd.DataFrame) -> tuple[_Runs, TextCodes]:
    """The runs of these users by user and day, and the texts of the artists' codes."""
    user, artist = positions(users, days["user_id"]), TextCodes.of(days["top_artist_id"])
    day = day_numbers(days["date"])
    rows = np.lexsort((day, user))
    rows = rows[(user[rows] >= 0) & (artist.codes[rows] >= 0)]
    user, day, of_artist = user[rows], day[rows], artist.codes[rows]
    begins = np.ones(len(rows), dtype=np.bool_)
    begins[1:] = (np.diff(user) != 0) | (np.diff(day) != 1) | (np.diff(of_artist) != 0)
    start = np.flatnonzero(begins)
    length = np.diff(np.append(start, len(rows)))
    return _Runs(user[start], of_artist[start], day[start] + length - 1, length), artist
