"""Listening per local day, for many users at once.

A play belongs wholly to the local date of `played_at` (its end) in its user's zone, on 23- and
25-hour days too. A day is a pure function of all stored plays of that date, so the order and the
batching in which plays arrive do not matter.

A frame of plays has the columns
    user_id      text
    played_at    datetime64, UTC: the end of the play
    track_id     text
    artist_id    text: the primary artist when the play was stored
    source       'api' or 'export'
    ms_played    integer, missing for API plays
    duration_ms  integer: the length of the track when the play was stored; missing if not known
with rows in any order, any index and any further columns. `zones` maps every user_id of the frame
to a zone name; functions raise ValueError for a missing user, UnknownZone for an invalid name.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pandas as pd

from spotify_pipeline.domain.listening.frames import (
    Bools,
    Integers,
    TextCodes,
    among,
    dates,
    days_of,
    groups,
    local_times,
    microseconds,
    objects,
    positions,
)
from spotify_pipeline.domain.model import CAPPED_FROM_MS, COUNTED_FROM_MS
from spotify_pipeline.domain.zones import check_zone

# datetime allows only smaller offsets.
_WIDEST_OFFSET = timedelta(hours=24)
# The maximum span of a local date: when a date line moved, one lasted 48 hours.
_LONGEST_DAY = timedelta(hours=49)


def daily_listening(
    plays: pd.DataFrame, zones: Mapping[str, str], touched_by: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Listening per day: one row per user and local date with a play, sorted by both.

    Columns: user_id (text), date (datetime.date), minutes, listened_ms, plays, unique_tracks,
    unique_artists (int64), top_track_id, top_artist_id (text, or None), basis (text). With
    `touched_by` (columns user_id, played_at: some of the plays) only the days of those plays. Needs
    every stored play of the returned days and each user's play before the first of them.

    listened_ms = Σ listened_ms(play) over all plays (see `listened_ms`); minutes = (listened_ms +
    30000) div 60000. The other columns use counted plays only (see `is_counted`). The top has the
    most plays, then the most listened ms, then the earliest play of that day, then the lowest id by
    code point. A date with only skips keeps its row, because the user listened: 0 plays and no top.
    basis: 'api' without a play whose ms_played is known, 'export' without an API play, else 'both'.
    """
    user, track, artist = (
        TextCodes.of(plays[name]) for name in ("user_id", "track_id", "artist_id")
    )
    day = days_of(local_times(user, plays["played_at"], zones))
    at = microseconds(plays["played_at"])
    rows = np.arange(len(plays))
    if touched_by is not None:
        of = positions(pd.Index(user.names, dtype=object), touched_by["user_id"])
        touched = among((user.codes, at), (of, microseconds(touched_by["played_at"])))
        rows = np.flatnonzero(among((user.codes, day), (user.codes[touched], day[touched])))
    of_day, a_row = groups(user.codes[rows], day[rows])
    days = len(a_row)

    def per_day(amounts: Integers | Bools) -> Integers:
        return np.bincount(of_day, weights=amounts[rows], minlength=days).astype(np.int64)

    ms, counted = _listened_ms(plays, user, track), is_counted(plays)
    listed = per_day(plays["source"].eq("api").to_numpy(dtype=np.bool_)) > 0
    exported = per_day(plays["ms_played"].notna().to_numpy(dtype=np.bool_)) > 0
    listened = per_day(ms)
    # Dates without a counted play have no tops, and 0 tracks and artists.
    in_tops = counted[rows]
    kept = rows[in_tops]
    (top_track, tracks), (top_artist, artists) = (
        _tops(of_day[in_tops], item.codes[kept], ms[kept], at[kept], days)
        for item in (track, artist)
    )
    return pd.DataFrame(
        {
            "user_id": user.texts(user.codes[rows][a_row]),
            "date": dates(day[rows][a_row]),
            "minutes": (listened + 30_000) // 60_000,
            "listened_ms": listened,
            "plays": per_day(counted),
            "unique_tracks": tracks,
            "unique_artists": artists,
            "top_track_id": track.texts(top_track),
            "top_artist_id": artist.texts(top_artist),
            "basis": objects(np.where(exported, np.where(listed, "both", "export"), "api")),
        }
    )


def listened_ms(plays: pd.DataFrame) -> pd.Series:
    """Milliseconds listened of each play: int64, indexed like `plays`.

    ms_played if known. Otherwise the length of the track, or, if the user's play before it ended at
    least 30 s and less than that length earlier, that shorter time, because no user plays two
    tracks at once. 0 if the length is unknown. Plays of the same instant are ordered by track id.
    Needs each user's play before the first one too.
    """
    user, track = TextCodes.of(plays["user_id"]), TextCodes.of(plays["track_id"])
    return pd.Series(_listened_ms(plays, user, track), index=plays.index)


def is_counted(plays: pd.DataFrame) -> Bools:
    """Which plays count in plays, uniques, tops and the personality: one bool per row.

    All API plays (Spotify lists nothing shorter); imported ones of 30,000 ms or more.
    """
    known, _ = _integers(plays["ms_played"])
    return plays["source"].eq("api").to_numpy(dtype=np.bool_) | (known >= COUNTED_FROM_MS)


def window_around(first: datetime, last: datetime) -> tuple[datetime, datetime]:
    """UTC bounds [start, end) around the local dates of these instants, in any zone."""
    return first - _LONGEST_DAY, last + _LONGEST_DAY


def reading_window(first: date, last: date) -> tuple[datetime, datetime]:
    """UTC bounds [start, end) around every instant whose date in any zone lies in [first, last].

    A day wider than needed on both sides: callers compute each play's date afterwards, because in
    some zones a date is no contiguous interval, or does not exist.
    """
    start = datetime.combine(max(first, date.min + _WIDEST_OFFSET), time(), UTC) - _WIDEST_OFFSET
    margin = timedelta(days=1) + _WIDEST_OFFSET
    end = datetime.combine(min(last, date.max - margin), time(), UTC) + margin
    return start, end


def local_today(now: datetime, zones: Mapping[str, str]) -> dict[str, date]:
    """The local date of the aware instant `now`, per user."""
    today = {name: now.astimezone(check_zone(name)).date() for name in set(zones.values())}
    return {user_id: today[name] for user_id, name in zones.items()}


def _tops(
    of_day: Integers, item: Integers, ms: Integers, at: Integers, days: int
) -> tuple[Integers, Integers]:
    """Of the plays of each day: the first item by the tie rule (-1: none); the number of items."""
    of_item, a_row = groups(of_day, item)
    first = np.full(len(a_row), np.iinfo(np.int64).max)
    np.minimum.at(first, of_item, at)
    plays, listened = np.bincount(of_item), np.bincount(of_item, weights=ms)
    day, item = of_day[a_row], item[a_row]
    best_first = np.lexsort((item, first, -listened, -plays, day))
    top = np.full(days, -1)
    with_tops, best = np.unique(day[best_first], return_index=True)
    top[with_tops] = item[best_first][best]
    return top, np.bincount(day, minlength=days)


def _listened_ms(plays: pd.DataFrame, user: TextCodes, track: TextCodes) -> Integers:
    # Instants are in milliseconds; the column may be in microseconds.
    at = microseconds(plays["played_at"]) // 1000
    order = np.lexsort((track.codes, at, user.codes))
    length, _ = _integers(plays["duration_ms"])
    since = np.full(len(plays), np.iinfo(np.int64).max)
    follows = np.diff(user.codes[order]) == 0
    since[order[1:][follows]] = np.diff(at[order])[follows]
    estimate = np.where(since >= CAPPED_FROM_MS, np.minimum(since, length), length)
    known, is_known = _integers(plays["ms_played"])
    return np.where(is_known, known, estimate)


def _integers(column: pd.Series) -> tuple[Integers, Bools]:
    """The values, 0 where they are missing, and which are not missing."""
    # A frame of Python values has None or NaN for missing values, and may have no dtype.
    values = pd.to_numeric(column).astype("Int64")
    present = values.notna().to_numpy(dtype=np.bool_)
    return np.asarray(values.fillna(0), dtype=np.int64), present
