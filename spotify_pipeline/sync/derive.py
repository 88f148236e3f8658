"""Days and personality, computed for sets of users from what is stored. No Spotify.

All functions work inside the caller's transaction.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import pandas as pd
from sqlalchemy import Connection

from spotify_pipeline.domain import days as day
from spotify_pipeline.storage.days import count_days, read_dates, write_days
from spotify_pipeline.storage.plays import read_plays
from spotify_pipeline.sync.outcome import StepRows


def rebuild_touched_days(
    conn: Connection,
    zones: Mapping[str, str],
    new_plays: Sequence[tuple[str, datetime]],
    stale: set[str],
    computed_at: datetime,
) -> dict[str, StepRows]:
    """Recompute exactly the local days that new plays fall on; every day of the `stale` users.

    `new_plays` are (user_id, played_at). Returns rows per user.
    """
    times = pd.DataFrame(
        [play for play in new_plays if play[0] not in stale], columns=["user_id", "played_at"]
    ).astype({"user_id": "str", "played_at": "datetime64[us, UTC]"})
    touched = day.touched_days(times, zones)
    windows = {
        str(user_id): day.reading_window(dates.min(), dates.max())
        for user_id, dates in touched.groupby("user_id")["date"]
    }
    plays = read_plays(conn, {**windows, **dict.fromkeys(stale)})
    if stale:
        # A day that was stored under the old zone may have no play under the new one.
        touched = pd.concat(
            [
                touched,
                day.touched_days(plays[plays["user_id"].isin(stale)], zones),
                read_dates(conn, stale)[["user_id", "date"]],
            ]
        ).drop_duplicates()
    plays = plays.assign(date=day.local_dates(plays, zones)).merge(touched, on=["user_id", "date"])
    written = write_days(conn, day.daily_listening(plays, zones), touched, computed_at)
    totals = count_days(conn, zones)
    new = Counter(user_id for user_id, _ in written.inserted)
    changed = Counter(user_id for user_id, _ in written.changed)
    return {
        user_id: StepRows(totals.get(user_id, 0), new[user_id], changed[user_id])
        for user_id in zones
    }


def rebuild_personality(
    conn: Connection, zones: Mapping[str, str], computed_at: datetime
) -> dict[str, StepRows]:
    return {}
