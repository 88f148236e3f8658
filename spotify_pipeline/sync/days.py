"""Refreshes stored days and their completeness from stored plays, for sets of users. No Spotify.

All of it happens in the caller's transaction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

import pandas as pd

from spotify_pipeline.domain.due import CLOCKS_MAY_DIFFER
from spotify_pipeline.domain.listening import days as day
from spotify_pipeline.domain.listening.coverage import completeness, first_whole_day, local_day
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.imports.merge import complete_imported_plays
from spotify_pipeline.storage.listening.counters import recount
from spotify_pipeline.storage.listening.days import (
    delete_days,
    read_dates,
    read_incomplete,
    save_completeness,
    write_days,
)
from spotify_pipeline.storage.listening.history import parts_of_history, read_history
from spotify_pipeline.storage.listening.plays import complete_plays, read_next_plays, read_plays
from spotify_pipeline.storage.postgres.bulk import Written
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.sync.plays import StoredUser


def refresh_days(
    conn: Connection, users: Sequence[StoredUser], now: datetime, *, is_poll: bool = False
) -> Written:
    """Recompute the local days that depend on new plays; every day of users whose days are stale.

    A new play shortens the estimate of the play after it, so that one's day depends on it too.
    Days of which retention has deleted plays, or the play before them, stay as they are. `is_poll`:
    what the API has shown of imported tracks is looked up only for users with new plays. Returns
    the (user_id, date) that are new, and those that changed, be it in completeness only.
    """
    if not users:
        return Written()
    zones = {user.user_id: user.timezone for user in users}
    stale = sorted(user.user_id for user in users if user.days_stale)
    new_plays = [(user.user_id, played_at) for user in users for played_at in user.new_plays]
    new_plays += complete_plays(conn, list(zones))
    if imported := [
        user.user_id for user in users if user.coverage.imported and (user.new_plays or not is_poll)
    ]:
        # Reads the catalogue of their whole history: as much work as the rest of a quiet poll.
        new_plays += complete_imported_plays(conn, imported)
    new_plays = [play for play in new_plays if play[0] not in stale]
    new_plays += read_next_plays(conn, new_plays) if new_plays else []
    whole = {
        user.user_id: first_whole_day(user.plays_from, check_zone(user.timezone))
        + timedelta(days=1)
        for user in users
        if user.plays_from is not None
    }
    writes = [
        *([_rebuild_touched(conn, zones, new_plays, whole, now)] if new_plays else ()),
        *(_rebuild_all(conn, zones, stale, whole, now) if stale else ()),
    ]
    inserted = {key for written in writes for key in written.inserted}
    changed = {key for written in writes for key in written.changed}
    changed |= _refresh_completeness(conn, users, now)
    return Written(inserted=tuple(inserted), changed=tuple(changed - inserted))


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


def _refresh_completeness(
    conn: Connection, users: Sequence[StoredUser], now: datetime
) -> set[tuple[str, date]]:
    """Update the completeness of days that are not complete: time alone may make them so.

    Also of days near an open gap, and of all days of users whose days are stale. Returns the
    (user_id, date) whose completeness changed.
    """
    by_id = {user.user_id: user for user in users}
    stale = [user.user_id for user in users if user.days_stale]
    # A fetch of the future, which a wrong clock stored, makes no day complete.
    latest = now + CLOCKS_MAY_DIFFER
    changed = []
    for stored in read_incomplete(conn, list(by_id), all_of=stale):
        user = by_id[stored.user_id]
        fetched_at = user.plays_fetched_at
        known = completeness(
            local_day(stored.date, check_zone(user.timezone)),
            user.coverage.known,
            user.coverage.open_gaps,
            fetched_at if fetched_at is not None and fetched_at <= latest else None,
            has_play=True,
            imported=user.coverage.imported,
        )
        if known != stored.completeness:
            changed.append(replace(stored, completeness=known))
    save_completeness(conn, changed, now)
    return {(stored.user_id, stored.date) for stored in changed}
