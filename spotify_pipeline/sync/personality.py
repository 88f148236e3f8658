"""The personality of sets of users, computed again only where it may have become another.

It depends on plays, days, top artist lists, covers, the zone and the definition, and on the time:
each local day moves the window, and a top list grows old. Triggers note that plays or days have
changed; everything else is in a key that is stored with the personality (see `_key`). The catalogue
is no input: plays keep the artist and release date that they were stored with.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
from sqlalchemy import Connection

from spotify_pipeline.domain.listening.coverage import local_day, observed_days
from spotify_pipeline.domain.listening.days import local_today, reading_window
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality.compute import PersonalityInputs, music_personality
from spotify_pipeline.domain.personality.streaks import Past, sum_up
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.listening.coverage import read_covers
from spotify_pipeline.storage.listening.days import read_dates
from spotify_pipeline.storage.listening.personality import (
    Fingerprint,
    ListState,
    lock_fingerprints,
    read_list_states,
    save_fingerprints,
    write_personality,
)
from spotify_pipeline.storage.listening.plays import Heard, read_plays, summarize_plays
from spotify_pipeline.storage.listening.top_lists import read_top_artists
from spotify_pipeline.sync.outcome import StepRows

# So many days are read for the streaks before those that are settled are summed up again.
_DAYS_READ = timedelta(days=70)


def rebuild_personality(
    conn: Connection, zones: Mapping[str, str], now: datetime, *, always: bool = False
) -> dict[str, StepRows]:
    """Bring every user's personality up to date as of `now`; returns rows per user.

    `always`: also where nothing says that it has changed. Works in the caller's transaction.
    """
    people = _people(conn, zones, now)
    lists = read_list_states(conn, list(zones))
    keys = {u: _key(person, lists.get(u, []), now) for u, person in people.items()}
    fingerprints = lock_fingerprints(conn, list(zones))
    outdated = {u: people[u] for u in zones if always or fingerprints[u].key != keys[u]}
    new, changed = set(), set()
    if outdated:
        past = {u: past for u in outdated if (past := _past(fingerprints[u], people[u]))}
        days = read_dates(conn, {u: past[u].before if u in past else date.min for u in outdated})
        rows = music_personality(_inputs(conn, outdated, now, days, past))
        written = write_personality(conn, rows, now)
        new, changed = ({user_id for (user_id,) in w} for w in (written.inserted, written.changed))
        past = _summed_up(days, outdated, past)
        save_fingerprints(conn, {u: Fingerprint(keys[u], past.get(u)) for u in outdated})
    return {user_id: StepRows(1, int(user_id in new), int(user_id in changed)) for user_id in zones}


@dataclass(frozen=True, slots=True)
class _Person:
    """Where somebody lives, the date it is there, and which days were observed until now."""

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


def _people(conn: Connection, zones: Mapping[str, str], now: datetime) -> dict[str, _Person]:
    today, covers = local_today(now, zones), read_covers(conn, zones, now)
    people = {}
    for user_id, name in zones.items():
        zone, date_ = check_zone(name), today[user_id]
        since = definition.earlier(date_)[0]
        observed = observed_days(covers.get(user_id, []), zone, date_, since)
        people[user_id] = _Person(zone, date_, observed)
    return people


def _key(person: _Person, lists: Sequence[ListState], now: datetime) -> str:
    """All that a personality is computed from and that no trigger tells."""
    aged = [(of.time_range, of.digest, definition.is_fresh(of.fetched_at, now)) for of in lists]
    spans = [(str(first), str(last)) for first, last in person.observed]
    parts = (definition.VERSION, person.zone.key, str(person.today), spans, aged)
    return hashlib.md5(repr(parts).encode(), usedforsecurity=False).hexdigest()


def _past(fingerprint: Fingerprint, person: _Person) -> Past | None:
    """The streaks that need no second look; none where the clock was set back before their end."""
    yesterday = person.today - timedelta(days=1)
    return fingerprint.past if fingerprint.past and fingerprint.past.before <= yesterday else None


def _summed_up(
    days: pd.DataFrame, people: Mapping[str, _Person], past: Mapping[str, Past]
) -> dict[str, Past]:
    """The past of everybody, once many days were read for somebody."""
    firsts = days.drop_duplicates("user_id")
    long_ago = [
        user_id
        for user_id, first in zip(firsts["user_id"], firsts["date"], strict=True)
        if first < people[user_id].today - _DAYS_READ
    ]
    if not long_ago:
        return dict(past)
    return {**past, **sum_up(days, {u: people[u].today for u in long_ago}, past)}


def _inputs(
    conn: Connection,
    people: Mapping[str, _Person],
    now: datetime,
    days: pd.DataFrame,
    past: Mapping[str, Past],
) -> PersonalityInputs:
    windows = {user_id: definition.window(person.today) for user_id, person in people.items()}
    observed = [
        (user_id, date_)
        for user_id, person in people.items()
        for date_ in person.observed_days(*windows[user_id])
    ]
    return PersonalityInputs(
        now=now,
        zones={user_id: person.zone.key for user_id, person in people.items()},
        plays=read_plays(conn, {u: reading_window(*windows[u]) for u in people}),
        days=days,
        past=past,
        top_artists=read_top_artists(conn, list(people)),
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
