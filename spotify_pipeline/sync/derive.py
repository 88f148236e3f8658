"""Days and personality, computed for sets of users from what is stored. No Spotify.

All functions work inside the caller's transaction.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
from sqlalchemy import Connection

from spotify_pipeline.domain import days as day
from spotify_pipeline.domain import personality_definition as definition
from spotify_pipeline.domain.coverage import Interval, completeness, local_day
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
from spotify_pipeline.storage.plays import Heard, read_plays, summarize_plays
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
    stale: set[str],
    computed_at: datetime,
) -> None:
    """Say again how complete the days are that are not complete; time alone makes them so.

    Looked at too: days near an open gap, and all days of the `stale`. `fetched_at` is each user's
    last successful fetch of plays.
    """
    covers, gaps = read_covers(conn, zones), read_open_gaps(conn, zones)
    changed = []
    for stored in read_unsettled(conn, list(zones), all_of=stale):
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
    written = write_personality(conn, music_personality(_inputs(conn, zones, now)), now)
    new = {user_id for (user_id,) in written.inserted}
    changed = {user_id for (user_id,) in written.changed}
    return {user_id: StepRows(1, int(user_id in new), int(user_id in changed)) for user_id in zones}


@dataclass(frozen=True, slots=True)
class _Person:
    """Where somebody lives, the date it is there, and what is known of them."""

    zone: ZoneInfo
    today: date
    covers: Sequence[Interval]

    def observed_days(self, first: date, last: date) -> list[date]:
        """The days from the first to the last that lie in one cover. Today counts as begun."""
        observed = []
        for back in range((last - first).days + 1):
            date_ = last - timedelta(days=back)
            span = local_day(date_, self.zone)
            end = span.start if date_ == self.today else span.end
            if any(cover.start <= span.start and end <= cover.end for cover in self.covers):
                observed.append(date_)
        return observed


def _inputs(conn: Connection, zones: Mapping[str, str], now: datetime) -> PersonalityInputs:
    today, covers = day.local_today(now, zones), read_covers(conn, zones)
    people = {
        user_id: _Person(check_zone(zone), today[user_id], covers.get(user_id, []))
        for user_id, zone in zones.items()
    }
    windows = {user_id: definition.window(today[user_id]) for user_id in people}
    observed = [
        (user_id, date_)
        for user_id, person in people.items()
        for date_ in person.observed_days(*windows[user_id])
    ]
    return PersonalityInputs(
        now=now,
        zones=zones,
        plays=read_plays(conn, {u: day.reading_window(*windows[u]) for u in people}),
        days=read_dates(conn, zones),
        top_artists=read_top_artists(conn, list(zones)),
        earlier=_earlier(conn, people),
        observed=pd.DataFrame(observed, columns=["user_id", "date"]),
    )


def _earlier(conn: Connection, people: Mapping[str, _Person]) -> pd.DataFrame:
    """What the window is compared with; see PersonalityInputs.earlier."""
    days = {user_id: definition.earlier(person.today) for user_id, person in people.items()}
    observed = {u: len(person.observed_days(*days[u])) for u, person in people.items()}
    # To sum up half a year takes 10 ms a user. Without enough observed days it would be in vain.
    spans = {
        user_id: (
            local_day(days[user_id][0], person.zone).start,
            local_day(days[user_id][1], person.zone).end,
        )
        for user_id, person in people.items()
        if observed[user_id] >= definition.MIN_EARLIER_OBSERVED_DAYS
    }
    heard, nothing = summarize_plays(conn, spans), Heard([], 0)
    return pd.DataFrame(
        {
            "user_id": list(people),
            "artist_ids": [heard.get(user_id, nothing).artist_ids for user_id in people],
            "plays": [heard.get(user_id, nothing).plays for user_id in people],
            "observed_days": list(observed.values()),
        }
    )
