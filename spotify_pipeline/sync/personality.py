"""Refreshes the music personality of sets of users; skips users whose inputs have not changed.

Its inputs are plays, days, top artist lists, coverage, the zone, the definition's version and the
time: each local day moves the window, and a top list grows old. Triggers invalidate the stored
fingerprint when plays or days change; the other inputs are hashed into it (see `_fingerprint_key`).
The catalogue is no input: a play keeps the artist and release date that it was stored with.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd

from spotify_pipeline.domain.listening.coverage import local_day, observed_days
from spotify_pipeline.domain.listening.days import reading_window
from spotify_pipeline.domain.outcome import StepRows
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality.compute import PersonalityInputs, music_personality
from spotify_pipeline.domain.personality.streaks import Past, sum_up
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.listening.days import read_dates
from spotify_pipeline.storage.listening.personality import (
    Fingerprint,
    ListState,
    lock_fingerprints,
    read_list_states,
    save_fingerprints,
    write_personality,
)
from spotify_pipeline.storage.listening.plays import PlaysSummary, read_plays, summarize_plays
from spotify_pipeline.storage.listening.top_lists import read_top_artists
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.sync.plays import StoredUser

# Streaks are summed up again once so many days have to be read for them.
_DAYS_READ = timedelta(days=70)


def refresh_personality(
    conn: Connection, users: Sequence[StoredUser], now: datetime, *, always: bool = False
) -> dict[str, StepRows]:
    """Bring every user's personality up to date as of `now`; returns rows per user.

    `always`: also where no input has changed. Works in the caller's transaction.
    """
    if not users:
        return {}
    observed = {user.user_id: _observe(user, now) for user in users}
    lists = read_list_states(conn, list(observed))
    keys = {u: _fingerprint_key(user, lists.get(u, []), now) for u, user in observed.items()}
    fingerprints = lock_fingerprints(conn, list(observed))
    outdated = {u: user for u, user in observed.items() if always or fingerprints[u].key != keys[u]}
    new, changed = set(), set()
    if outdated:
        past = {u: past for u in outdated if (past := _past(fingerprints[u], outdated[u]))}
        days = read_dates(conn, {u: past[u].before if u in past else date.min for u in outdated})
        rows = music_personality(_inputs(conn, outdated, now, days, past))
        written = write_personality(conn, rows, now)
        new, changed = ({user_id for (user_id,) in w} for w in (written.inserted, written.changed))
        past = _summed_up(days, outdated, past)
        save_fingerprints(conn, {u: Fingerprint(keys[u], past.get(u)) for u in outdated})
    return {u: StepRows(1, int(u in new), int(u in changed)) for u in observed}


@dataclass(frozen=True, slots=True)
class _ObservedUser:
    """A user's zone, the date there, and which days were observed until now."""

    zone: ZoneInfo
    today: date
    # (from, to), since the first day that the window is compared with.
    observed: Sequence[tuple[date, date]]

    def observed_days(self, first: date, last: date) -> list[date]:
        """The observed days from the first to the last."""
        return [
            start + timedelta(days=n)
            for start, end in ((max(a, first), min(b, last)) for a, b in self.observed)
            for n in range((end - start).days + 1)
        ]


def _observe(user: StoredUser, now: datetime) -> _ObservedUser:
    zone = check_zone(user.timezone)
    today = now.astimezone(zone).date()
    since = definition.earlier(today)[0]
    return _ObservedUser(zone, today, observed_days(user.coverage.known, zone, today, since))


def _fingerprint_key(user: _ObservedUser, lists: Sequence[ListState], now: datetime) -> str:
    """A hash of all inputs whose change no trigger notes."""
    aged = [(of.time_range, of.digest, definition.is_fresh(of.fetched_at, now)) for of in lists]
    spans = [(str(first), str(last)) for first, last in user.observed]
    parts = (definition.VERSION, user.zone.key, str(user.today), spans, aged)
    return hashlib.md5(repr(parts).encode(), usedforsecurity=False).hexdigest()


def _past(fingerprint: Fingerprint, user: _ObservedUser) -> Past | None:
    """The streaks summed up so far; None where the clock was set back to before their end."""
    yesterday = user.today - timedelta(days=1)
    return fingerprint.past if fingerprint.past and fingerprint.past.before <= yesterday else None


def _summed_up(
    days: pd.DataFrame, users: Mapping[str, _ObservedUser], past: Mapping[str, Past]
) -> dict[str, Past]:
    """The sums of all users, moved on for those of whom many days were read."""
    firsts = days.drop_duplicates("user_id")
    long_ago = [
        user_id
        for user_id, first in zip(firsts["user_id"], firsts["date"], strict=True)
        if first < users[user_id].today - _DAYS_READ
    ]
    if not long_ago:
        return dict(past)
    return {**past, **sum_up(days, {u: users[u].today for u in long_ago}, past)}


def _inputs(
    conn: Connection,
    users: Mapping[str, _ObservedUser],
    now: datetime,
    days: pd.DataFrame,
    past: Mapping[str, Past],
) -> PersonalityInputs:
    windows = {user_id: definition.window(user.today) for user_id, user in users.items()}
    observed = [
        (user_id, date_)
        for user_id, user in users.items()
        for date_ in user.observed_days(*windows[user_id])
    ]
    return PersonalityInputs(
        now=now,
        zones={user_id: user.zone.key for user_id, user in users.items()},
        plays=read_plays(conn, {u: reading_window(*windows[u]) for u in users}),
        days=days,
        past=past,
        top_artists=read_top_artists(conn, list(users)),
        earlier=_earlier(conn, users),
        observed=pd.DataFrame(observed, columns=["user_id", "date"]),
    )


def _earlier(conn: Connection, users: Mapping[str, _ObservedUser]) -> pd.DataFrame:
    """What the window is compared with; see PersonalityInputs.earlier."""
    days = {user_id: definition.earlier(user.today) for user_id, user in users.items()}
    observed = {u: len(user.observed_days(*days[u])) for u, user in users.items()}
    # To sum up half a year takes 10 ms a user. Without enough observed days it would be in vain.
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
