"""Days and personality, computed for sets of users from what is stored. No Spotify.

All functions work inside the caller's transaction.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import pandas as pd
from sqlalchemy import Connection

from spotify_pipeline.domain import days as day
from spotify_pipeline.domain import personality_definition as definition
from spotify_pipeline.domain.personality import PersonalityInputs, music_personality
from spotify_pipeline.storage.days import count_days, read_dates, write_days
from spotify_pipeline.storage.personality import write_personality
from spotify_pipeline.storage.plays import read_plays
from spotify_pipeline.storage.tops import read_top_artists
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
    conn: Connection, zones: Mapping[str, str], now: datetime
) -> dict[str, StepRows]:
    """Compute every user's personality as of `now`; returns rows per user."""
    if not zones:
        return {}
    windows = {
        user_id: day.reading_window(*definition.window(today))
        for user_id, today in day.local_today(now, zones).items()
    }
    inputs = PersonalityInputs(
        now=now,
        zones=zones,
        plays=read_plays(conn, windows),
        days=read_dates(conn, zones),
        top_artists=read_top_artists(conn, list(zones)),
        # Which days were observed is not recorded yet: the metrics that need it say so.
        earlier=pd.DataFrame(columns=["user_id", "artist_ids", "plays", "observed_days"]),
        observed=pd.DataFrame(columns=["user_id", "date"]),
    )
    written = write_personality(conn, music_personality(inputs), now)
    new = {user_id for (user_id,) in written.inserted}
    changed = {user_id for (user_id,) in written.changed}
    return {user_id: StepRows(1, int(user_id in new), int(user_id in changed)) for user_id in zones}
