"""Streaks: runs of consecutive local dates with the same top artist."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from spotify_pipeline.domain.listening.frames import (
    Bools,
    Integers,
    TextCodes,
    day_numbers,
    objects,
    positions,
)

# One day is not a streak.
SHORTEST = 2


def streaks(days: pd.DataFrame, today: Mapping[str, date]) -> pd.DataFrame:
    """The longest streak ever and the current one: one row per user of `today`, in its order.

    `days`: the whole history in any order: columns user_id, date (datetime.date), top_artist_id
    (text or missing). A date without a row, or without a top artist, ends a streak. Runs of one
    day do not count; between the first and the last day they may be missing.

    Columns: user_id; days (int64), how many of `days` have a top artist; longest_streak,
    current_streak (int64, 0: none); longest_streak_artist_id, streak_artist_id (text, None: none).

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


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of days: user and artist (codes), last (day number), length (days)."""

    user: Integers
    artist: Integers
    last: Integers
    length: Integers

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
