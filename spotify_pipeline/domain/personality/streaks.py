"""Streaks: runs of consecutive local dates with the same top artist."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd

from spotify_pipeline.domain.listening.frames import (
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
    runs, artist = _runs_of(users, days)
    counts = np.bincount(runs["user"], weights=runs["length"], minlength=len(users))
    runs = runs[runs["length"] >= SHORTEST]
    yesterday = day_numbers(objects(list(today.values()))) - 1
    current = runs[runs["last"] >= yesterday[runs["user"]]].sort_values(["user", "last"])
    lengths, artist_ids = _per_user(_longest(runs), artist, len(users))
    for place, user_id in enumerate(users):
        known = (past or {}).get(user_id, _NOTHING)
        counts[place] += known.days
        if known.longest and known.longest >= lengths[place]:
            lengths[place], artist_ids[place] = known.longest, known.longest_artist_id
    current_lengths, current_ids = _per_user(
        current.drop_duplicates("user", keep="last"), artist, len(users)
    )
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
    first = runs["last"] - runs["length"] + 1
    begun = runs.assign(first=first)[first <= settled[runs["user"]]]
    begins = begun.sort_values(["user", "first"]).drop_duplicates("user", keep="last")
    before = dict(zip(users[begins["user"]], dates(begins["first"]), strict=True))
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


def _per_user(runs: pd.DataFrame, artist: TextCodes, users: int) -> tuple[Integers, pd.Series]:
    """Length (0: none) and artist (None) of each user's one run."""
    per_user = runs.set_index("user").reindex(range(users))
    lengths = per_user["length"].fillna(0).to_numpy(dtype=np.int64)
    return lengths.copy(), artist.texts(per_user["artist"].fillna(-1))


def _longest(runs: pd.DataFrame) -> pd.DataFrame:
    """Each user's longest run; of two of the same length, the earlier."""
    best_first = runs.sort_values(["user", "length", "last"], ascending=[True, False, True])
    return best_first.drop_duplicates("user")


def _runs_of(users: pd.Index, days: pd.DataFrame) -> tuple[pd.DataFrame, TextCodes]:
    """The runs of these users in the form of `_runs`, and the texts of the artists' codes."""
    known = days[days["top_artist_id"].notna() & days["user_id"].isin(users)]
    artist = TextCodes.of(known["top_artist_id"])
    return _runs(
        positions(users, known["user_id"]), day_numbers(known["date"]), artist.codes
    ), artist


def _runs(user: Integers, day: Integers, artist: Integers) -> pd.DataFrame:
    """One row per run: user, artist (codes), last (day number), length (days)."""
    order = np.lexsort((day, user))
    dates = pd.DataFrame({"user": user[order], "day": day[order], "artist": artist[order]})
    steps = dates.diff()
    goes_on = (steps["user"] == 0) & (steps["day"] == 1) & (steps["artist"] == 0)
    return dates.groupby((~goes_on).cumsum()).agg(
        user=("user", "first"),
        artist=("artist", "first"),
        last=("day", "max"),
        length=("day", "size"),
    )
