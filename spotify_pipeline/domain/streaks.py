"""Streaks: runs of consecutive local dates with the same top artist."""

from collections.abc import Mapping
from datetime import date

import numpy as np
import pandas as pd

from spotify_pipeline.domain.frames import Coded, Integers, day_numbers, objects, places

# One day is no streak.
SHORTEST = 2


def streaks(days: pd.DataFrame, today: Mapping[str, date]) -> pd.DataFrame:
    """One row per user of `today`, in its order: the longest streak ever and the current one.

    `days`: columns user_id, date (datetime.date), top_artist_id (text or missing), the whole
    history in any order. A date without a row, or without a top artist, ends a run. Runs of one
    day count as none.

    Columns: user_id; days (int64), the dates with a top artist; longest_streak, current_streak
    (int64, 0: none); longest_streak_artist_id, streak_artist_id (text, None: none).

    A record stands until it is beaten: of two runs as long, the earlier is the longest. The
    current streak is the latest run that ends today or yesterday; today is not over yet, so one
    day of another artist today does not end yesterday's run.
    """
    users = pd.Index(list(today), dtype=object)
    known = days[days["top_artist_id"].notna() & days["user_id"].isin(users)]
    artist = Coded.of(known["top_artist_id"])
    user = places(users, known["user_id"])
    runs = _runs(user, day_numbers(known["date"]), artist.codes)
    runs = runs[runs["length"] >= SHORTEST]
    longest = runs.sort_values(["user", "length", "last"], ascending=[True, False, True])
    yesterday = day_numbers(objects(list(today.values()))) - 1
    current = runs[runs["last"] >= yesterday[runs["user"]]].sort_values(["user", "last"])
    result = {
        "user_id": objects(users),
        "days": np.bincount(user, minlength=len(users)),
    }
    for found, length, artist_id in (
        (longest.drop_duplicates("user"), "longest_streak", "longest_streak_artist_id"),
        (current.drop_duplicates("user", keep="last"), "current_streak", "streak_artist_id"),
    ):
        per_user = found.set_index("user").reindex(range(len(users)))
        result[length] = per_user["length"].fillna(0).astype("int64").to_numpy()
        result[artist_id] = artist.texts(per_user["artist"].fillna(-1))
    return pd.DataFrame(result)


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
