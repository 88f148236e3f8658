"""Refreshes the music personality of sets of users; skips users whose inputs have not changed.

Its inputs are plays, days, top artist lists, coverage, the zone, the definition's version and the
time: each local day moves the window, and a top list grows old. Triggers invalidate the stored
fingerprint when plays or days change; the other inputs are hashed into it (see `_fingerprint_key`).
The catalogue is no input: a play keeps the artist and release date that it was stored with.

A month's metrics are stored when it is over, and again when plays of it or before it are new: a
trigger lowers `months_before`. Charts need a year, so of an older month nothing is computed.
"""

import hashlib
from calendar import monthrange
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from spotify_pipeline.domain.listening.coverage import first_whole_day, observed_days
from spotify_pipeline.domain.outcome import StepRows
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.listening.personality import (
    ListState,
    lock_fingerprints,
    read_first_days,
    read_list_states,
    save_keys,
    save_months_before,
    write_months,
    write_personality,
)
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.sync.plays import StoredUser

MONTHS = 12


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
        # Lazy: pandas takes a fifth of the CPU of a command that finds nothing new.
        from spotify_pipeline.sync.compute import compute_personality

        written = write_personality(conn, compute_personality(conn, outdated, now), now)
        new, changed = ({user_id for (user_id,) in w} for w in (written.inserted, written.changed))
        save_keys(conn, {u: keys[u] for u in outdated})
    since = {
        user.user_id: None
        if always or user.days_stale
        else fingerprints[user.user_id].months_before
        for user in users
        if user.user_id in fingerprints
    }
    _refresh_months(conn, {user.user_id: user for user in users}, observed, since, now)
    return {u: StepRows(1, int(u in new), int(u in changed)) for u in observed}


@dataclass(frozen=True, slots=True)
class ObservedUser:
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


def _refresh_months(
    conn: Connection,
    users: Mapping[str, StoredUser],
    observed: Mapping[str, ObservedUser],
    since: Mapping[str, date | None],
    now: datetime,
) -> None:
    """Compute the months from `since` (None: from the first) to the last that is over.

    A month stays as it is if retention has deleted plays that it rests on.
    """
    this_month = {user_id: observed[user_id].today.replace(day=1) for user_id in since}
    due = {u: month for u, month in since.items() if month is None or month < this_month[u]}
    if not due:
        return
    firsts = read_first_days(conn, [user_id for user_id, month in due.items() if month is None])
    sets: dict[tuple[str, date], list[str]] = {}
    for user_id, month in due.items():
        begin = month or firsts.get(user_id, this_month[user_id])
        for month in _months(this_month[user_id]):
            if month >= begin.replace(day=1) and _is_whole(users[user_id], month):
                sets.setdefault((users[user_id].timezone, month), []).append(user_id)
    for (zone, month), user_ids in sorted(sets.items()):
        from spotify_pipeline.sync.compute import compute_month

        noon = datetime.combine(_last_day(month), time(12), check_zone(zone))
        then = {user_id: _observe(users[user_id], noon) for user_id in user_ids}
        write_months(conn, compute_month(conn, then, month, noon), now)
    save_months_before(conn, {user_id: this_month[user_id] for user_id in due})


def _months(this_month: date) -> list[date]:
    """The first days of the MONTHS before this one."""
    number = this_month.year * 12 + this_month.month - 1
    return [date(n // 12, n % 12 + 1, 1) for n in range(number - MONTHS, number)]


def _last_day(month: date) -> date:
    return month.replace(day=monthrange(month.year, month.month)[1])


def _is_whole(user: StoredUser, month: date) -> bool:
    """Whether retention has left all plays that the month's metrics rest on."""
    if user.plays_from is None:
        return True
    whole = first_whole_day(user.plays_from, check_zone(user.timezone))
    return definition.earlier(_last_day(month))[0] >= whole


def _observe(user: StoredUser, now: datetime) -> ObservedUser:
    zone = check_zone(user.timezone)
    today = now.astimezone(zone).date()
    since = definition.earlier(today)[0]
    return ObservedUser(zone, today, observed_days(user.coverage.known, zone, today, since))


def _fingerprint_key(user: ObservedUser, lists: Sequence[ListState], now: datetime) -> str:
    """A hash of all inputs whose change no trigger notes."""
    aged = [(of.time_range, of.digest, definition.is_fresh(of.fetched_at, now)) for of in lists]
    spans = [(str(first), str(last)) for first, last in user.observed]
    parts = (definition.VERSION, user.zone.key, str(user.today), spans, aged)
    return hashlib.md5(repr(parts).encode(), usedforsecurity=False).hexdigest()
