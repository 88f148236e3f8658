"""Handmade frames of plays, and hypothesis strategies for them."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
from hypothesis import strategies as st

from spotify_pipeline.domain.listening.frames import TextCodes, dates, days_of, local_times

# Zones with half-hour shifts, far offsets, skipped dates, reversed seasons, shifts at 00:01.
ZONES = (
    "UTC",
    "America/New_York",
    "America/Los_Angeles",
    "America/St_Johns",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "Asia/Gaza",
    "Australia/Lord_Howe",
    "Etc/GMT+12",
    "Europe/London",
    "Pacific/Apia",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
)

COLUMNS = (
    "user_id",
    "played_at",
    "track_id",
    "artist_id",
    "source",
    "ms_played",
    "duration_ms",
    "release_date",
)


def utc(text: str) -> datetime:
    """`2026-03-01 12:00` and the like, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def wall(text: str, zone: str, fold: int = 0) -> datetime:
    """The instant at which a clock in the zone shows this time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def play(
    played_at: datetime,
    *,
    user_id: str = "anna",
    track_id: str = "t1",
    artist_id: str = "a1",
    ms_played: int | None = None,
    duration_ms: int | None = 200_000,
    release_date: str | None = None,
) -> dict[str, object]:
    """One row: an imported play if it has `ms_played`, otherwise an API play."""
    return {
        "user_id": user_id,
        "played_at": played_at,
        "track_id": track_id,
        "artist_id": artist_id,
        "source": "api" if ms_played is None else "export",
        "ms_played": ms_played,
        "duration_ms": duration_ms,
        "release_date": release_date,
    }


def plays_frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    """The frame in the form that storage returns."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["played_at"] = pd.to_datetime(frame["played_at"], utc=True).dt.as_unit("us")
    frame["ms_played"] = frame["ms_played"].astype("Int64")
    frame["duration_ms"] = frame["duration_ms"].astype("Int64")
    return frame


def records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The rows as plain Python values, for exact comparison."""
    return frame.to_dict("records")


def local_date(moment: datetime, zone: str) -> date:
    """The local date by the standard library."""
    return moment.astimezone(ZoneInfo(zone)).date()


# Around New Year 2012 (Samoa's missing Friday) and across all shifts of 2025.
_instants = st.one_of(
    st.integers(0, 4 * 86_400_000).map(lambda ms: utc("2011-12-29") + timedelta(milliseconds=ms)),
    st.integers(0, 8760).map(lambda hours: utc("2025-01-01") + timedelta(hours=hours)),
    st.integers(0, 2 * 86_400_000).map(lambda ms: utc("2025-11-02") + timedelta(milliseconds=ms)),
)
_ids = st.sampled_from(["a", "B", "é", "\uffff", "\U00010000"])


@st.composite
def listening(draw: st.DrawFn) -> tuple[pd.DataFrame, dict[str, str]]:
    """Plays of up to three users in any zones, few enough ids and lengths for frequent ties."""
    zones = {user: draw(st.sampled_from(ZONES)) for user in ("anna", "Bert", "çem")}
    keys = draw(st.lists(st.tuples(st.sampled_from(list(zones)), _instants, _ids), unique=True))
    rows = [
        play(
            at,
            user_id=user,
            track_id=track,
            artist_id=draw(_ids),
            ms_played=draw(st.sampled_from([None, 0, 29_999, 30_000, 100_000])),
            duration_ms=draw(st.sampled_from([30_000, 100_000, 4_000_000, None])),
        )
        for user, at, track in keys
    ]
    return plays_frame(rows), zones


def local_dates(plays: pd.DataFrame, zones: Mapping[str, str]) -> pd.Series:
    """The local date of each play: datetime.date in an object column, indexed like `plays`.

    Needs only the columns user_id and played_at.
    """
    days = days_of(local_times(TextCodes.of(plays["user_id"]), plays["played_at"], zones))
    return dates(days).set_axis(plays.index)
