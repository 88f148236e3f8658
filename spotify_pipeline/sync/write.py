"""Writes what was fetched: the catalogue first, then one transaction for a whole set of users.

The catalogue is shared by all users and written in a transaction of its own, so that its locks are
short. Users' own rows are written only for users who still exist and whose lease this process still
holds, all of them or none. When one user's data is refused, bisecting under savepoints leaves that
user out. The number of statements does not depend on the number of users.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain

from spotify_pipeline.domain.due import next_due_at
from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.outcome import (
    BLOCKED,
    DAILY_LISTENING,
    FETCHED,
    MUSIC_PERSONALITY,
    RECENTLY_PLAYED,
    TOP_ARTISTS,
    TOP_TRACKS,
    StepFailure,
    StepRows,
    UserOutcome,
    still_possible,
)
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.listening.counters import read_counts
from spotify_pipeline.storage.listening.days import mark_fresh, mark_stale
from spotify_pipeline.storage.listening.top_lists import (
    FetchedList,
    replace_top_artists,
    replace_top_tracks,
)
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.storage.work.leases import Held, Lease, lock_held
from spotify_pipeline.storage.work.sync_runs import SyncResult, save_results
from spotify_pipeline.sync.bisect import bisect
from spotify_pipeline.sync.days import refresh_days
from spotify_pipeline.sync.fetch import FetchedUser
from spotify_pipeline.sync.personality import refresh_personality
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.plays import StoredUser, store_plays


def write(
    pipeline: Pipeline, lease: Lease, users: Sequence[FetchedUser], steps: Sequence[str]
) -> list[UserOutcome]:
    """Store everything for these users; returns one outcome per user, in order."""
    due_stretch = pipeline.rate_limiter.due_stretch() if RECENTLY_PLAYED in steps else 1.0
    writable = [user for user in users if not user.is_locked]
    refused = bisect(writable, partial(_write_catalogue, pipeline))
    outcomes: dict[str, UserOutcome] = {}
    with pipeline.engine.begin() as conn:
        held = lock_held(conn, [user.user_id for user in writable], lease.lease_id)

        def write_part(part: Sequence[FetchedUser]) -> None:
            with conn.begin_nested():
                written = _write_users(conn, pipeline, part, steps)
                _write_state(conn, part, steps, written, due_stretch)
            outcomes.update(written)

        out = {user.user_id for user in refused}
        ours = [user for user in writable if user.user_id in held.ours]
        refused += bisect([user for user in ours if user.user_id not in out], write_part)
        # Of a refused user only the outcome is written.
        failed = {user.user_id: _failed(user, steps, ErrorCode.INTERNAL) for user in refused}
        refused = [user for user in refused if user.user_id in held.ours]
        _write_state(conn, refused, steps, failed, due_stretch)
    outcomes |= {user.user_id: failed[user.user_id] for user in refused}
    return [outcomes.get(user.user_id) or _not_written(user, held, steps) for user in users]


def _not_written(user: FetchedUser, held: Held, steps: Sequence[str]) -> UserOutcome:
    if user.is_locked or user.user_id in held.blocked:
        return UserOutcome(user.user_id, skipped=BLOCKED)
    if user.user_id not in held.existing:
        return UserOutcome(user.user_id, gone=True)
    # The lease was lost: another process may be syncing this user.
    return _failed(user, steps, ErrorCode.CRASHED)


def _failed(user: FetchedUser, steps: Sequence[str], code: ErrorCode) -> UserOutcome:
    return UserOutcome(user.user_id, failures=dict.fromkeys(steps, StepFailure.of(code)))


def _write_catalogue(pipeline: Pipeline, users: Sequence[FetchedUser]) -> None:
    pages = [user.plays for user in users if user.plays]
    top_artists = [top for user in users for top in user.top_artists.values()]
    top_tracks = [top for user in users for top in user.top_tracks.values()]
    artists = [r.artists for responses in (pages, top_artists, top_tracks) for r in responses]
    tracks = [r.tracks for responses in (pages, top_tracks) for r in responses]
    with pipeline.engine.begin() as conn:
        save_artists(conn, chain.from_iterable(artists))
        save_tracks(conn, chain.from_iterable(tracks))


def _write_users(
    conn: Connection, pipeline: Pipeline, users: Sequence[FetchedUser], steps: Sequence[str]
) -> dict[str, UserOutcome]:
    now, rebuild = pipeline.now(), _is_rebuild(steps)
    outcomes = {
        fetched.user_id: UserOutcome(
            fetched.user_id,
            failures=dict(fetched.failures),
            seconds=fetched.seconds,
            first=fetched.user.plays_fetched_at is None,
            recovered=fetched.user.is_failing and not fetched.failures and not rebuild,
        )
        for fetched in users
    }
    # Without a fetch of plays among the steps every day is computed again.
    stored = store_plays(conn, users, now, rebuild=RECENTLY_PLAYED not in steps)
    _write_days(conn, users, stored, steps, now, outcomes)
    _write_top_lists(conn, users, outcomes)
    able = _able(users, stored, steps, MUSIC_PERSONALITY)
    for user_id, rows in refresh_personality(conn, able, now, always=rebuild).items():
        outcomes[user_id].done[MUSIC_PERSONALITY] = rows
    return outcomes


def _write_days(
    conn: Connection,
    users: Sequence[FetchedUser],
    stored: Sequence[StoredUser],
    steps: Sequence[str],
    now: datetime,
    outcomes: Mapping[str, UserOutcome],
) -> None:
    able = _able(users, stored, steps, DAILY_LISTENING)
    # Plays are new only once: marks users without days, so that the next sync rebuilds them.
    mark_stale(conn, [user.user_id for user in stored if user.new_plays and user not in able])
    is_poll = set(steps) & set(FETCHED) == {RECENTLY_PLAYED}
    written = refresh_days(conn, able, now, is_poll=is_poll)
    mark_fresh(conn, {user.user_id: user.timezone for user in able if user.days_stale})
    counts = read_counts(conn, [user.user_id for user in stored])
    for fetched, user in zip(users, stored, strict=True):
        if fetched.plays:
            new = len(user.new_plays)
            outcomes[user.user_id].new_plays = new
            outcomes[user.user_id].done[RECENTLY_PLAYED] = StepRows(counts[user.user_id].plays, new)
    inserted = Counter(user_id for user_id, _ in written.inserted)
    changed = Counter(user_id for user_id, _ in written.changed)
    for user in able:
        outcomes[user.user_id].done[DAILY_LISTENING] = StepRows(
            counts[user.user_id].days, inserted[user.user_id], changed[user.user_id]
        )


def _write_top_lists(
    conn: Connection, users: Sequence[FetchedUser], outcomes: Mapping[str, UserOutcome]
) -> None:
    artists = [
        FetchedList(user.user_id, top, user.fetched_at)
        for user in users
        for top in user.top_artists.values()
    ]
    tracks = [
        FetchedList(user.user_id, top, user.fetched_at)
        for user in users
        for top in user.top_tracks.values()
    ]
    for (user_id, time_range), rows in replace_top_artists(conn, artists).items():
        outcomes[user_id].done[f"top_artists/{time_range}"] = rows
    for (user_id, time_range), rows in replace_top_tracks(conn, tracks).items():
        outcomes[user_id].done[f"top_tracks/{time_range}"] = rows


def _able(
    users: Sequence[FetchedUser], stored: Sequence[StoredUser], steps: Sequence[str], step: str
) -> list[StoredUser]:
    """The users for whom this step is selected and not stopped by a step that failed."""
    return [
        user
        for fetched, user in zip(users, stored, strict=True)
        if step in still_possible(fetched.failures, steps)
    ]


def _is_rebuild(steps: Sequence[str]) -> bool:
    """Whether nothing is fetched, so everything is computed again, changed or not."""
    return not set(steps) & set(FETCHED)


def _write_state(
    conn: Connection,
    users: Sequence[FetchedUser],
    steps: Sequence[str],
    outcomes: Mapping[str, UserOutcome],
    due_stretch: float,
) -> None:
    save_results(
        conn,
        [
            _result(user, outcomes[user.user_id], due_stretch)
            for user in users
            # A rebuild makes no call, so it keeps the failure of the last sync.
            if outcomes[user.user_id].failures or not _is_rebuild(steps)
        ],
    )


def _result(fetched: FetchedUser, outcome: UserOutcome, due_stretch: float) -> SyncResult:
    failure = outcome.failure
    is_held_back = failure is not None and failure.is_held_back
    page = fetched.plays if RECENTLY_PLAYED in outcome.done else None
    next_due = None
    if page or RECENTLY_PLAYED in outcome.failures:
        next_due = next_due_at(
            fetched.fetched_at,
            page.item_times if page else None,
            due_stretch,
            fetched.user.heard_at,
            1 if is_held_back else fetched.user.consecutive_failures + 1,
        )
    return SyncResult(
        user_id=outcome.user_id,
        synced_at=fetched.fetched_at,
        anything_done=bool(outcome.done),
        everything_done=not outcome.failures,
        is_held_back=is_held_back,
        plays_fetched=page is not None,
        tops_fetched={*TOP_ARTISTS, *TOP_TRACKS} <= outcome.done.keys(),
        next_due_at=next_due,
        error_code=failure.code if failure else None,
        error_message=failure.message if failure else None,
    )
