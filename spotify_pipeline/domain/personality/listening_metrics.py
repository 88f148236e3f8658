"""The metrics of the music personality that come from the plays of the window.

N plays, A distinct artists, T distinct tracks, per user. Formulas and minimums are in definition.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import chain

import numpy as np
import pandas as pd

from spotify_pipeline.domain.listening.days import is_counted
from spotify_pipeline.domain.listening.frames import (
    MICROSECONDS_A_DAY,
    Integers,
    TextCodes,
    among,
    day_number,
    days_of,
    groups,
    local_times,
    objects,
    positions,
)
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality.scores import (
    Condition,
    Floats,
    Score,
    at_least,
    count,
    entropy,
    evenness,
    ratio,
    total,
)

_US_AN_HOUR = MICROSECONDS_A_DAY // 24
_A_WEEK = 7
# 1970-01-01, day 0, was a Thursday: the first Saturday is day 2.
_FIRST_SATURDAY = 2
_FULL_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class Window:
    """The counted plays of the window, one entry per play, ordered by user and clock.

    `user` is the position in `users`, `day` and `released` are days since 1970-01-01 (`released`
    NaN if unknown or not known to the day), `clock` is the local time in microseconds since
    midnight, `artist` and `track` are codes in code-point order.
    """

    users: pd.Index
    user: Integers
    day: Integers
    clock: Integers
    track: Integers
    artist: Integers
    artist_names: pd.Index
    released: Floats

    @classmethod
    def of(
        cls, plays: pd.DataFrame, zones: Mapping[str, str], first: Integers, last: Integers
    ) -> "Window":
        """The counted plays whose local day lies in [first, last] of their user."""
        users = pd.Index(list(zones), dtype=object)
        user = positions(users, plays["user_id"])
        counted = np.flatnonzero((user >= 0) & is_counted(plays))
        user = user[counted]
        of_user = TextCodes(user, users.to_numpy())
        local = local_times(of_user, plays["played_at"].iloc[counted], zones)
        day, clock = days_of(local), local % MICROSECONDS_A_DAY
        track, artist, released = (
            TextCodes.of(plays[name].iloc[counted])
            for name in ("track_id", "artist_id", "release_date")
        )
        inside = np.flatnonzero((first[user] <= day) & (day <= last[user]))
        # Float addition depends on order, so cosines are always added in the order of the clock.
        # The other metrics only count.
        rows = inside[np.argsort(user[inside] * MICROSECONDS_A_DAY + clock[inside])]
        return cls(
            users=users,
            user=user[rows],
            day=day[rows],
            clock=clock[rows],
            track=track.codes[rows],
            artist=artist.codes[rows],
            artist_names=pd.Index(artist.names, dtype=object),
            released=_release_days(released)[rows],
        )

    @property
    def plays(self) -> Integers:
        """N per user."""
        return count(len(self.users), self.user)

    def days(self) -> tuple[Integers, Integers]:
        """The distinct (user, day) with a play, as two columns."""
        _, a_row = groups(self.user, self.day)
        return self.user[a_row], self.day[a_row]


def artist_metrics(window: Window) -> dict[str, Score]:
    """Diversity, effective number, concentration and number of artists."""
    users, plays = len(window.users), window.plays
    user, k = _played(window, window.artist)
    artists, h = count(users, user), entropy(users, user, k)
    enough = _enough(plays)
    return {
        "artist_diversity": Score(evenness(h, artists), enough),
        "effective_artists": Score(np.clip(np.exp(h), 1, np.maximum(artists, 1)), enough),
        "artist_concentration": Score(
            np.clip(total(users, user, ratio(k, plays[user]) ** 2), 0, 1), enough
        ),
        "unique_artists": Score(artists),
    }


def repeat_metrics(window: Window) -> dict[str, Score]:
    """How much of the listening repeats the same tracks."""
    users, plays = len(window.users), window.plays
    user, k = _played(window, window.track)
    tracks = count(users, user)
    enough = _enough(plays)
    return {
        "repeat_share": Score(ratio(plays - tracks, plays), enough),
        "repeat_rate": Score(ratio(count(users, user[k >= 2]), tracks), enough),
    }


def discovery_metrics(window: Window, earlier: pd.DataFrame) -> dict[str, Score]:
    """The share of plays by artists new to the user, compared with the days before the window."""
    users, plays = len(window.users), window.plays
    earlier = earlier[earlier["user_id"].isin(window.users)]
    place = positions(window.users, earlier["user_id"])
    lengths = [len(artist_ids) for artist_ids in earlier["artist_ids"]]
    artist_ids = objects(list(chain.from_iterable(earlier["artist_ids"])))
    heard = np.repeat(place, lengths), positions(window.artist_names, artist_ids)
    new = ~among((window.user, window.artist), heard)
    observed, before = (
        total(users, place, earlier[column]).astype(np.int64)
        for column in ("observed_days", "plays")
    )
    then = f"in the {definition.EARLIER_DAYS} days before"
    enough = (
        *_enough(plays),
        at_least(definition.MIN_EARLIER_OBSERVED_DAYS, f"observed days {then}", observed),
        at_least(definition.MIN_EARLIER_PLAYS, f"plays {then}", before),
    )
    return {"artist_discovery_rate": Score(ratio(count(users, window.user[new]), plays), enough)}


def clock_metrics(window: Window) -> dict[str, Score]:
    """When a user listens: mean on the circle of 24 hours, at night, on weekends."""
    users, user, plays = len(window.users), window.user, window.plays
    angle = 2 * np.pi * (window.clock / MICROSECONDS_A_DAY)
    c, s = (ratio(total(users, user, f(angle)), plays) for f in (np.cos, np.sin))
    focus = np.clip(np.hypot(c, s), 0, 1)
    peak = np.mod(np.arctan2(s, c) * 24 / (2 * np.pi), 24)
    rayleigh = plays * focus**2
    on_days = count(users, window.days()[0])
    for_hours = (
        *_enough(plays),
        at_least(definition.MIN_DAYS_FOR_HOURS, "days with plays", on_days),
    )
    for_shares = (
        *_enough(plays),
        at_least(definition.MIN_DAYS_FOR_SHARES, "days with plays", on_days),
    )
    night = window.clock < definition.NIGHT_ENDS_AT_HOUR * _US_AN_HOUR
    weekend = (window.day - _FIRST_SATURDAY) % _A_WEEK < 2
    return {
        # A mean just before midnight may round to 24.0, which is 0.0.
        "peak_hour": Score(np.where(peak < 24, peak, 0.0), (*for_hours, _clear(rayleigh))),
        "time_focus": Score(focus, for_hours),
        "night_share": Score(ratio(count(users, user[night]), plays), for_shares),
        "weekend_share": Score(ratio(count(users, user[weekend]), plays), for_shares),
    }


def regularity_metrics(window: Window, observed: tuple[Integers, Integers]) -> dict[str, Score]:
    """The share of observed days with a play. `observed`: the distinct (user, day)."""
    users, (user, _) = len(window.users), observed
    days = count(users, user)
    share = ratio(count(users, user[among(observed, window.days())]), days)
    enough = at_least(definition.MIN_OBSERVED_DAYS, "observed days", days)
    return {"listening_regularity": Score(share, (enough,))}


def newness_metrics(window: Window) -> dict[str, Score]:
    """The share of recent releases; an album dated after the play counts as new."""
    users, dated = len(window.users), ~np.isnan(window.released)
    age = window.day - window.released
    new = count(users, window.user[dated & (age <= definition.NEW_RELEASE_DAYS)])
    known = count(users, window.user[dated])
    enough = at_least(definition.MIN_PLAYS, "plays with a release date known to the day", known)
    return {"newness": Score(ratio(new, known), (enough,))}


def _enough(plays: Integers) -> tuple[Condition, ...]:
    return (at_least(definition.MIN_PLAYS, "plays", plays),)


def _clear(rayleigh: Floats) -> Condition:
    """A clear peak: otherwise the mean time is random (Rayleigh's test of circular uniformity)."""
    needed = definition.MIN_RAYLEIGH_Z

    def reason(user: int) -> str:
        # Truncated, not rounded: 2.996 must not be displayed as 3.0.
        return (
            f"needs a clear peak: Rayleigh z {needed}, has {np.floor(rayleigh[user] * 100) / 100}"
        )

    return Condition(rayleigh >= needed, reason)


def _played(window: Window, item: Integers) -> tuple[Integers, Integers]:
    """Per user and item, sorted by both: the user, and the number of plays."""
    of_item, a_row = groups(window.user, item)
    return window.user[a_row], np.bincount(of_item)


def _release_days(released: TextCodes) -> Floats:
    """Days since 1970-01-01 of full dates; NaN for a year, a month, an invalid or missing date."""
    return np.array([*map(_release_day, released.names), np.nan])[released.codes]


def _release_day(text: str) -> float:
    # Of ISO 8601 only this form: fromisoformat would take weeks, too.
    if not _FULL_DATE.fullmatch(text):
        return np.nan
    try:
        return day_number(date.fromisoformat(text))
    except ValueError:
        return np.nan
