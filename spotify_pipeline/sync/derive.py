"""Days and personality, computed for sets of users from what is stored. No Spotify.

All functions work inside the caller's transaction.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

import pandas as pd
from sqlalchemy import Connection

from spotify_pipeline.domain import days as day
from spotify_pipeline.domain import personality_definition as definition
from spotify_pipeline.domain.coverage import completeness, local_day
from spotify_pipeline.domain.personality import PersonalityInputs, music_personality
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.coverage import read_covers, read_open_gaps
from spotify_pipeline.storage.days import (
    count_days,
    read_dates,
    read_unsettled,
    save_completeness,
    write_days,
)
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


def settle_completeness(
    conn: Connection,
    zones: Mapping[str, str],
    fetched_at: Mapping[str, datetime | None],
    gaps_opened_at: Mapping[str, datetime],
    stale: set[str],
    computed_at: datetime,
) -> None:
    """Say again how complete the days are that are not complete; time alone makes them so.

    Looked at too: days since the start of a gap that has just opened, and all days of the `stale`.
    `fetched_at` is each user's last successful fetch of plays.
    """
    since = dict.fromkeys(zones, date.max)
    since |= {
        u: at.astimezone(check_zone(zones[u])).date()
        for u, at in gaps_opened_at.items()
        if u in zones
    }
    since |= dict.fromkeys(stale, date.min)
    covers, gaps = read_covers(conn, zones), read_open_gaps(conn, zones)
    changed = []
    for stored in read_unsettled(conn, since):
        user_id = stored.user_id
        now = completeness(
            local_day(stored.date, check_zone(zones[user_id])),
            covers.get(user_id, []),
            gaps.get(user_id, []),
            fetched_at.get(user_id),
            has_play=True,
        )
        if now != stored.completeness:
            changed.append(replace(stored, completeness=now))
    save_completeness(conn, changed, computed_at)


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
        earlier=pd.DataFrame(columns=["user_id", "artist_ids", "plays", "observed_days"]),
        observed=_observed_days(conn, zones, now),
    )
    written = write_personality(conn, music_personality(inputs), now)
    new = {user_id for (user_id,) in written.inserted}
    changed = {user_id for (user_id,) in written.changed}
    return {user_id: StepRows(1, int(user_id in new), int(user_id in changed)) for user_id in zones}


def _observed_days(conn: Connection, zones: Mapping[str, str], now: datetime) -> pd.DataFrame:
    """The local days of the window that lie in one cover: user_id, date. Today counts as begun."""
    covers = read_covers(conn, zones)
    observed = []
    for user_id, today in day.local_today(now, zones).items():
        first, last = definition.window(today)
        zone = check_zone(zones[user_id])
        for back in range((last - first).days + 1):
            date_ = last - timedelta(days=back)
            span = local_day(date_, zone)
            end = span.start if date_ == today else span.end
            if any(c.start <= span.start and end <= c.end for c in covers.get(user_id, [])):
                observed.append((user_id, date_))
    return pd.DataFrame(observed, columns=["user_id", "date"])
