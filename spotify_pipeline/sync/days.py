"""Refreshes stored days and their completeness from stored plays, for sets of users. No Spotify.

All of it happens in the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

from spotify_pipeline.domain.due import CLOCKS_MAY_DIFFER
from spotify_pipeline.domain.listening.coverage import completeness, first_whole_day, local_day
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.imports.merge import complete_imported_plays
from spotify_pipeline.storage.listening.days import read_incomplete, save_completeness
from spotify_pipeline.storage.listening.plays import complete_plays, read_next_plays
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
    writes: list[Written] = []
    if new_plays or stale:
        # Lazy: pandas takes a fifth of the CPU of a command that finds nothing new.
        from spotify_pipeline.sync.compute import rebuild_days

        writes += rebuild_days(conn, zones, new_plays, stale, whole, now)
    inserted = {key for written in writes for key in written.inserted}
    changed = {key for written in writes for key in written.changed}
    changed |= _refresh_completeness(conn, users, now)
    return Written(inserted=tuple(inserted), changed=tuple(changed - inserted))


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
