"""Computes days and personalities from what is stored: the part of a sync that needs pandas.

Which ones have to be computed is decided in days.py and personality.py, without pandas.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime

import pandas as pd

from spotify_pipeline.domain.listening import days as day
from spotify_pipeline.domain.listening.coverage import local_day
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality.compute import PersonalityInputs, music_personality
from spotify_pipeline.storage.listening.counters import recount
from spotify_pipeline.storage.listening.days import (
    delete_days,
    read_dates,
    read_streak_days,
    write_days,
)
from spotify_pipeline.storage.listening.history import parts_of_history, read_history
from spotify_pipeline.storage.listening.plays import PlaysSummary, read_plays, summarize_plays
from spotify_pipeline.storage.listening.top_lists import read_top_artists
from spotify_pipeline.storage.postgres.bulk import Written
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.sync.personality import ObservedUser

_LIST_COLUMNS = [
    *("user_id", "time_range", "rank", "spotify_id", "genres", "popularity", "fetched_at")
]


def rebuild_days(
    conn: Connection,
    zones: Mapping[str, str],
    new_plays: Sequence[tuple[str, datetime]],
    stale: Sequence[str],
    whole: Mapping[str, date],
    now: datetime,
) -> Iterator[Written]:
    """Write the days of these (user_id, played_at), and every day of the users in `stale`.

    `whole`: the first day of which retention has deleted nothing, of users who have lost plays.
    """
    if new_plays:
        yield _rebuild_touched(conn, zones, new_plays, whole, now)
    if stale:
        yield from _rebuild_all(conn, zones, stale, whole, now)


def _rebuild_touched(
    conn: Connection,
    zones: Mapping[str, str],
    new_plays: Sequence[tuple[str, datetime]],
    whole: Mapping[str, date],
    now: datetime,
) -> Written:
    touched_by = pd.DataFrame(new_plays, columns=["user_id", "played_at"])
    windows = {
        str(user_id): day.window_around(times.min(), times.max())
        for user_id, times in touched_by.groupby("user_id")["played_at"]
    }
    days = day.daily_listening(read_plays(conn, windows), zones, touched_by)
    return write_days(conn, _without_frozen(days, whole), now)


def _rebuild_all(
    conn: Connection,
    zones: Mapping[str, str],
    user_ids: Sequence[str],
    whole: Mapping[str, date],
    now: datetime,
) -> Iterator[Written]:
    """Write every day of these users, a part of their history at a time."""
    # Parts are cut by the counters, and a user without a counter has no part: a restore without
    # triggers may have left them wrong, or left them out.
    recount(conn, user_ids)
    # A day that was stored under another zone may have no play under this one.
    stored = read_dates(conn, {user_id: whole.get(user_id, date.min) for user_id in user_ids})
    gone = set(zip(stored["user_id"], stored["date"], strict=True))
    for part in parts_of_history(conn, user_ids):
        plays = read_history(
            conn, {u: day.reading_window(*span) if span else None for u, span in part.items()}
        )
        days = _without_frozen(day.daily_listening(plays, zones), whole)
        for user_id, span in part.items():
            if span is not None:
                # The windows of parts overlap. The day at an end is whole in one of them only.
                days = days[(days["user_id"] != user_id) | days["date"].between(*span)]
        gone.difference_update(zip(days["user_id"], days["date"], strict=True))
        yield write_days(conn, days, now)
    delete_days(conn, gone)


def _without_frozen(days: pd.DataFrame, whole: Mapping[str, date]) -> pd.DataFrame:
    """The (user_id, date) rows without those before a user's first day with all its plays."""
    for user_id, first in whole.items():
        days = days[(days["user_id"] != user_id) | (days["date"] >= first)]
    return days


def compute_personality(
    conn: Connection, users: Mapping[str, ObservedUser], now: datetime
) -> pd.DataFrame:
    """The rows of music_personality of these users as of `now`, without computed_at."""
    inputs = replace(
        _inputs_of_plays(conn, users, now),
        days=read_streak_days(conn, list(users)),
        top_artists=read_top_artists(conn, list(users)),
    )
    return music_personality(inputs)


def compute_month(
    conn: Connection, users: Mapping[str, ObservedUser], month: date, now: datetime
) -> pd.DataFrame:
    """The rows of music_personality_history of this month, as of its last day, but computed_at."""
    rows = music_personality(_inputs_of_plays(conn, users, now))
    kept = ["user_id", "window_start", "window_end", "play_count", *definition.LISTENING_METRICS]
    reasons = [
        {name: why for name, why in row.items() if name in definition.LISTENING_METRICS}
        for row in rows["reasons"]
    ]
    return rows[[*kept, "definition_version"]].assign(month=month, reasons=pd.Series(reasons))


def _inputs_of_plays(
    conn: Connection, users: Mapping[str, ObservedUser], now: datetime
) -> PersonalityInputs:
    """Inputs without days and top lists."""
    windows = {user_id: definition.window(user.today) for user_id, user in users.items()}
    observed = [
        (user_id, date_)
        for user_id, user in users.items()
        for date_ in user.observed_days(*windows[user_id])
    ]
    return PersonalityInputs(
        now=now,
        zones={user_id: user.zone.key for user_id, user in users.items()},
        plays=read_plays(conn, {u: day.reading_window(*windows[u]) for u in users}),
        days=pd.DataFrame(columns=["user_id", "date", "top_artist_id"]),
        top_artists=pd.DataFrame(columns=_LIST_COLUMNS),
        earlier=_earlier(conn, users),
        observed=pd.DataFrame(observed, columns=["user_id", "date"]),
    )


def _earlier(conn: Connection, users: Mapping[str, ObservedUser]) -> pd.DataFrame:
    """Inputs from before the window; see PersonalityInputs.earlier."""
    days = {user_id: definition.earlier(user.today) for user_id, user in users.items()}
    observed = {u: len(user.observed_days(*days[u])) for u, user in users.items()}
    # To sum up half a year takes 10 ms a user. Useless without enough observed days.
    spans = {
        user_id: (
            local_day(days[user_id][0], user.zone).start,
            local_day(days[user_id][1], user.zone).end,
        )
        for user_id, user in users.items()
        if observed[user_id] >= definition.MIN_EARLIER_OBSERVED_DAYS
    }
    summaries, nothing = summarize_plays(conn, spans), PlaysSummary([], 0)
    return pd.DataFrame(
        {
            "user_id": list(users),
            "artist_ids": [summaries.get(user_id, nothing).artist_ids for user_id in users],
            "plays": [summaries.get(user_id, nothing).plays for user_id in users],
            "observed_days": list(observed.values()),
        }
    )
