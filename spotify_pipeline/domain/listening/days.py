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
    dates,
    days_of,
    local_times,
    objects,
    positions,
    utc_times,
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
    played = pd.DataFrame(
        {
            "user": user.codes,
            "day": days_of(local_times(user, plays["played_at"], zones)),
            "track": track.codes,
            "artist": artist.codes,
            "counted": is_counted(plays),
            "listed": plays["source"].eq("api").to_numpy(dtype=np.bool_),
            "exported": plays["ms_played"].notna().to_numpy(dtype=np.bool_),
            "listened_ms": _listened_ms(plays, user, track),
            "at": utc_times(plays["played_at"]).astype("int64").to_numpy(),
        }
    )
    if touched_by is not None:
        touching = pd.DataFrame(
            {
                "user": positions(pd.Index(user.names, dtype=object), touched_by["user_id"]),
                "at": utc_times(touched_by["played_at"]).astype("int64").to_numpy(),
            }
        )
        touched = played.merge(touching, on=["user", "at"])[["user", "day"]].drop_duplicates()
        played = played.merge(touched, on=["user", "day"])
    days = played.groupby(["user", "day"])[["listened_ms", "counted"]].sum()
    by = played.groupby(["user", "day"])[["listed", "exported"]].any()
    basis = np.where(by["exported"], np.where(by["listed"], "both", "export"), "api")
    counted = played[played["counted"]]
    tracks, artists = (_tops(counted, item).reindex(days.index) for item in ("track", "artist"))
    return pd.DataFrame(
        {
            "user_id": user.texts(days.index.get_level_values("user")),
            "date": dates(days.index.get_level_values("day")),
            "minutes": (days["listened_ms"].to_numpy() + 30_000) // 60_000,
            "listened_ms": days["listened_ms"].to_numpy(),
            "plays": days["counted"].to_numpy(),
            # Dates without a counted play have no tops, and 0 tracks and artists.
            "unique_tracks": tracks["unique"].fillna(0).to_numpy(dtype=np.int64),
            "unique_artists": artists["unique"].fillna(0).to_numpy(dtype=np.int64),
            "top_track_id": track.texts(tracks["top"].fillna(-1)),
            "top_artist_id": artist.texts(artists["top"].fillna(-1)),
            "basis": objects(basis),
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
    long_enough = _integers(plays["ms_played"]).fillna(0) >= COUNTED_FROM_MS
    return (plays["source"].eq("api") | long_enough).to_numpy(dtype=np.bool_)


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


def _tops(counted: pd.DataFrame, item: str) -> pd.DataFrame:
    """Per user and day: `top`, the code of the first `item` by the tie rule, and `unique`."""
    each = counted.groupby(["user", "day", item], as_index=False).agg(
        plays=("at", "size"), listened_ms=("listened_ms", "sum"), first=("at", "min")
    )
    best_first = each.sort_values(
        ["user", "day", "plays", "listened_ms", "first", item],
        ascending=[True, True, False, False, True, True],
    )
    per_day = best_first.groupby(["user", "day"])[item]
    return pd.DataFrame({"top": per_day.first(), "unique": per_day.size()})


def _listened_ms(plays: pd.DataFrame, user: TextCodes, track: TextCodes) -> Integers:
    # Instants are in milliseconds; the column may be in microseconds.
    at = utc_times(plays["played_at"]).astype("int64").to_numpy() // 1000
    order = np.lexsort((track.codes, at, user.codes))
    length = _integers(plays["duration_ms"]).fillna(0).to_numpy(dtype=np.int64)
    since = np.full(len(plays), np.iinfo(np.int64).max)
    follows = np.diff(user.codes[order]) == 0
    since[order[1:][follows]] = np.diff(at[order])[follows]
    estimate = np.where(since >= CAPPED_FROM_MS, np.minimum(since, length), length)
    known = _integers(plays["ms_played"])
    return known.to_numpy(dtype=np.int64, na_value=0) + np.where(known.isna(), estimate, 0)


def _integers(column: pd.Series) -> pd.Series:
    # A frame of Python values has None or NaN for missing values, and may have no dtype.
    return pd.to_numeric(column).astype("Int64")
