"""Days and how complete they are, computed for sets of users from stored plays. No Spotify.

All functions work inside the caller's transaction.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

import pandas as pd
from sqlalchemy import Connection

from spotify_pipeline.domain.due import CLOCKS_MAY_DIFFER
from spotify_pipeline.domain.listening import days as day
from spotify_pipeline.domain.listening.coverage import completeness, first_whole_day, local_day
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.listening.counters import recount
from spotify_pipeline.storage.listening.coverage import read_covers, read_open_gaps
from spotify_pipeline.storage.listening.days import (
    count_days,
    delete_days,
    read_dates,
    read_unsettled,
    save_completeness,
    write_days,
)
from spotify_pipeline.storage.listening.history import parts_of_history, read_history
from spotify_pipeline.storage.listening.plays import complete_plays, read_next_plays, read_plays
from spotify_pipeline.storage.postgres.upsert import Written
from spotify_pipeline.sync.outcome import StepRows


def rebuild_touched_days(
    conn: Connection,
    zones: Mapping[str, str],
    new_plays: Sequence[tuple[str, datetime]],
    stale: set[str],
    computed_at: datetime,
    plays_from: Mapping[str, datetime | None] | None = None,
) -> Written:
    """Recompute the local days that depend on new plays; every day of the `stale` users.

    `new_plays` are (user_id, played_at). A new play shortens the estimate of the play after it, so
    that one's day depends on it, too. Days of which retention has deleted plays, or the play before
    them, stay as they are: those up to the first that begins after a user's `plays_from`. Returns
    the (user_id, date) written.
    """
    new_plays = [*new_plays, *complete_plays(conn, list(zones))]
    fresh = [play for play in new_plays if play[0] not in stale]
    fresh += read_next_plays(conn, fresh) if fresh else []
    whole = {
        user_id: first_whole_day(cut, check_zone(zones[user_id])) + timedelta(days=1)
        for user_id, cut in (plays_from or {}).items()
        if cut is not None
    }
    writes = [
        *([_rebuild_touched(conn, zones, fresh, whole, computed_at)] if fresh else ()),
        *(_rebuild_all(conn, zones, sorted(stale), whole, computed_at) if stale else ()),
    ]
    return Written(
        inserted=tuple(key for written in writes for key in written.inserted),
        changed=tuple(key for written in writes for key in written.changed),
    )


def _rebuild_touched(
    conn: Connection,
    zones: Mapping[str, str],
    new_plays: Sequence[tuple[str, datetime]],
    whole: Mapping[str, date],
    computed_at: datetime,
) -> Written:
    times = pd.DataFrame(new_plays, columns=["user_id", "played_at"])
    touched = _without_frozen(day.touched_days(times, zones), whole)
    windows = {
        str(user_id): day.reading_window(dates.min(), dates.max())
        for user_id, dates in touched.groupby("user_id")["date"]
    }
    plays = read_plays(conn, windows)
    return write_days(conn, day.daily_listening(plays, zones, touched), computed_at)


def _rebuild_all(
    conn: Connection,
    zones: Mapping[str, str],
    user_ids: Sequence[str],
    whole: Mapping[str, date],
    computed_at: datetime,
) -> Iterator[Written]:
    """Write every day of these users, a part of their history at a time."""
    # Parts are cut by the tallies, and who has none has no part: a restore without triggers may
    # have left them wrong, or left them out.
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
        yield write_days(conn, days, computed_at)
    delete_days(conn, gone)


def _without_frozen(days: pd.DataFrame, whole: Mapping[str, date]) -> pd.DataFrame:
    """The (user_id, date) rows without those before a user's first day with all its plays."""
    for user_id, first in whole.items():
        days = days[(days["user_id"] != user_id) | (days["date"] >= first)]
    return days


def refresh_completeness(
    conn: Connection,
    zones: Mapping[str, str],
    fetched_at: Mapping[str, datetime | None],
    stale: set[str],
    computed_at: datetime,
) -> set[tuple[str, date]]:
    """Say again how complete the days are that are not complete; time alone makes them so.

    Looked at too: days near an open gap, and all days of the `stale`. `fetched_at` is each user's
    last successful fetch of plays. Returns the (user_id, date) of which it says something else.
    """
    covers, gaps = read_covers(conn, zones, computed_at), read_open_gaps(conn, zones)
    # A fetch of the future, which a wrong clock stored, settles no day.
    latest = computed_at + CLOCKS_MAY_DIFFER
    fetched_at = {user: at for user, at in fetched_at.items() if at is not None and at <= latest}
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
    return {(one.user_id, one.date) for one in changed}


def day_rows(
    conn: Connection, user_ids: Collection[str], written: Written, settled: set[tuple[str, date]]
) -> dict[str, StepRows]:
    """Each user's stored days: how many, and how many of them are new or say something else."""
    new = Counter(user_id for user_id, _ in written.inserted)
    changed = Counter(
        user_id for user_id, _ in settled.union(written.changed) - {*written.inserted}
    )
    totals = count_days(conn, user_ids)
    return {
        user_id: StepRows(totals.get(user_id, 0), new[user_id], changed[user_id])
        for user_id in user_ids
    }
