"""Writes what was collected: the catalogue first, then one transaction for the whole set.

The catalogue is shared and harmless, so it has its own transaction and its locks are short. What
belongs to users is written only for those who still exist and whose lease is still ours, all of
it or nothing, equal in effect to a transaction per user.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from itertools import chain

from sqlalchemy import Connection, tuple_, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from spotify_pipeline.domain import steps as s
from spotify_pipeline.domain.codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.due import next_due_at
from spotify_pipeline.domain.model import not_provided
from spotify_pipeline.domain.zones import UnknownZone
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.leases import Lease, lock_held
from spotify_pipeline.storage.plays import count_plays
from spotify_pipeline.storage.state import SyncResult, save_results
from spotify_pipeline.storage.tops import replace_top_artists, replace_top_tracks
from spotify_pipeline.storage.upsert import Written
from spotify_pipeline.sync.collect import Collected
from spotify_pipeline.sync.derive import rebuild_touched_days, settle_completeness
from spotify_pipeline.sync.outcome import StepFailure, StepRows, UserOutcome, still_possible
from spotify_pipeline.sync.pages import store_pages
from spotify_pipeline.sync.personality import rebuild_personality
from spotify_pipeline.sync.pipeline import Pipeline

log = logging.getLogger(__name__)

# What one user's data can cause. Anything else, such as a lost connection, concerns everybody.
REFUSALS = (DataError, IntegrityError, UnknownZone)


def write(
    pipeline: Pipeline, lease: Lease, collected: Sequence[Collected], steps: Sequence[str]
) -> list[UserOutcome]:
    """Store everything for these users; when the data of one is refused, store the others.

    Returns one outcome per user, in order.
    """
    try:
        _write_catalogue(pipeline, collected)
        return _write_users(pipeline, lease, collected, steps)
    except REFUSALS as error:
        # The kind only: Postgres's words quote the row.
        kind = error.orig if isinstance(error, DBAPIError) else error
        log.warning("A write was refused: %s", type(kind).__name__)
        if len(collected) > 1:
            each = (write(pipeline, lease, [one], steps) for one in collected)
            return list(chain.from_iterable(each))
        return [_refused(pipeline, lease, collected[0], steps)]


def _refused(pipeline: Pipeline, lease: Lease, one: Collected, steps: Sequence[str]) -> UserOutcome:
    """The failure of a user whose data Postgres refuses; nothing but the state is written."""
    user_id = one.listener.user_id
    outcome = _failed(user_id, steps, ErrorCode.INTERNAL)
    with pipeline.engine.begin() as conn:
        _, ours = lock_held(conn, [user_id], lease.lease_id)
        _write_state(conn, [one] if ours else [], steps, {user_id: outcome})
    return outcome


def _failed(user_id: str, steps: Sequence[str], code: ErrorCode) -> UserOutcome:
    return UserOutcome(user_id, failures=dict.fromkeys(steps, StepFailure(code, WHAT_TO_DO[code])))


def _write_catalogue(pipeline: Pipeline, collected: Sequence[Collected]) -> None:
    pages = [one.plays for one in collected if one.plays]
    top_artists = [top for one in collected for top in one.top_artists.values()]
    top_tracks = [top for one in collected for top in one.top_tracks.values()]
    artists = [
        *(page.artists for page in pages),
        *(top.artists for top in top_artists),
        *(top.artists for top in top_tracks),
    ]
    tracks = [*(page.tracks for page in pages), *(top.tracks for top in top_tracks)]
    with pipeline.engine.begin() as conn:
        save_artists(conn, chain.from_iterable(artists))
        save_tracks(conn, chain.from_iterable(tracks))


def _write_users(
    pipeline: Pipeline, lease: Lease, collected: Sequence[Collected], steps: Sequence[str]
) -> list[UserOutcome]:
    outcomes = {
        one.listener.user_id: UserOutcome(
            one.listener.user_id,
            failures=dict(one.failures),
            seconds=one.seconds,
            first=one.listener.plays_fetched_at is None,
        )
        for one in collected
    }
    with pipeline.engine.begin() as conn:
        existing, ours = lock_held(conn, outcomes, lease.lease_id)
        for user_id in outcomes.keys() - existing:
            outcomes[user_id] = UserOutcome(user_id, gone=True)
        for user_id in existing - ours:
            outcomes[user_id] = _failed(user_id, steps, ErrorCode.CRASHED)
        kept = [one for one in collected if one.listener.user_id in ours]
        _write_plays_and_days(conn, pipeline, kept, steps, outcomes)
        _write_tops(conn, kept, outcomes)
        _write_personality(conn, pipeline, kept, steps, outcomes)
        _write_state(conn, kept, steps, outcomes)
    return list(outcomes.values())


def _write_plays_and_days(
    conn: Connection,
    pipeline: Pipeline,
    kept: Sequence[Collected],
    steps: Sequence[str],
    outcomes: dict[str, UserOutcome],
) -> None:
    pages = {one.listener.user_id: one.plays.plays for one in kept if one.plays}
    new_plays = store_pages(conn, kept)
    new = Counter(user_id for user_id, _ in new_plays)
    totals = count_plays(conn, pages)
    for user_id in pages:
        outcomes[user_id].new_plays = new[user_id]
        outcomes[user_id].done[s.RECENTLY_PLAYED] = StepRows(totals.get(user_id, 0), new[user_id])
    days_of = _able(kept, steps, outcomes, s.DAILY_LISTENING)
    # Plays are new only once: whoever gets no days now gets all of them at the next chance.
    _mark_days(conn, new.keys() - {one.listener.user_id for one in days_of}, stale=True)
    if not days_of:
        return
    # Without fresh plays among the steps this is a rebuild: every day again.
    rebuild = s.RECENTLY_PLAYED not in steps
    stale = {one.listener.user_id for one in days_of if rebuild or one.listener.days_stale}
    zones = {one.listener.user_id: one.listener.timezone for one in days_of}
    rows = rebuild_touched_days(conn, zones, new_plays, stale, pipeline.now())
    for user_id, counts in rows.items():
        outcomes[user_id].done[s.DAILY_LISTENING] = counts
    _mark_days(conn, stale, stale=False, zones=zones)
    fetched_at = {
        one.listener.user_id: one.fetched_at if one.plays else one.listener.plays_fetched_at
        for one in days_of
    }
    settle_completeness(conn, zones, fetched_at, stale, computed_at=pipeline.now())


def _mark_days(
    conn: Connection,
    user_ids: Set[str],
    *,
    stale: bool,
    zones: Mapping[str, str] | None = None,
) -> None:
    """Note whether all days must be computed again; with `zones`, of users who still live there.

    A zone that changed while we asked Spotify has made the days stale that we have just computed.
    """
    u = t.users
    marked = update(u).where(u.c.user_id.in_(user_ids)).values(days_stale=stale)
    if zones is not None:
        marked = marked.where(
            tuple_(u.c.user_id, u.c.timezone).in_([(one, zones[one]) for one in user_ids])
        )
    if user_ids:
        conn.execute(marked)


def _write_tops(
    conn: Connection, kept: Sequence[Collected], outcomes: dict[str, UserOutcome]
) -> None:
    for one in kept:
        done = outcomes[one.listener.user_id].done
        user_id, at = one.listener.user_id, one.fetched_at
        for step, artists in one.top_artists.items():
            rows = _rows(*replace_top_artists(conn, user_id, artists, at))
            done[step] = replace(rows, not_provided=not_provided(artists.artists))
        for step, tracks in one.top_tracks.items():
            rows = _rows(*replace_top_tracks(conn, user_id, tracks, at))
            done[step] = replace(rows, not_provided=not_provided(tracks.tracks))


def _rows(total: int, written: Written) -> StepRows:
    return StepRows(total, len(written.inserted), len(written.changed))


def _write_personality(
    conn: Connection,
    pipeline: Pipeline,
    kept: Sequence[Collected],
    steps: Sequence[str],
    outcomes: dict[str, UserOutcome],
) -> None:
    able = _able(kept, steps, outcomes, s.MUSIC_PERSONALITY)
    zones = {one.listener.user_id: one.listener.timezone for one in able}
    # Who fetches nothing wants it computed again, whether or not anything is known to be new.
    rebuild = not set(steps) & set(s.FETCHED)
    rows = rebuild_personality(conn, zones, pipeline.now(), always=rebuild)
    for user_id, counts in rows.items():
        outcomes[user_id].done[s.MUSIC_PERSONALITY] = counts


def _able(
    kept: Sequence[Collected], steps: Sequence[str], outcomes: dict[str, UserOutcome], step: str
) -> list[Collected]:
    """The users for whom this step is selected and not stopped by an earlier failure."""
    return [
        one
        for one in kept
        if step in still_possible(outcomes[one.listener.user_id].failures, steps)
    ]


def _write_state(
    conn: Connection,
    kept: Sequence[Collected],
    steps: Sequence[str],
    outcomes: dict[str, UserOutcome],
) -> None:
    tops = {*s.TOP_ARTISTS, *s.TOP_TRACKS}
    rebuild = not set(steps) & set(s.FETCHED)
    results = []
    for one in kept:
        outcome = outcomes[one.listener.user_id]
        failure = outcome.failure
        if rebuild and failure is None:
            # It asked Spotify nothing: what a sync last told of the connection still holds.
            continue
        page = one.plays if s.RECENTLY_PLAYED in outcome.done else None
        results.append(
            SyncResult(
                user_id=outcome.user_id,
                synced_at=one.fetched_at,
                anything_done=bool(outcome.done),
                everything_done=not outcome.failures,
                plays_fetched=page is not None,
                tops_fetched=tops <= outcome.done.keys(),
                next_due_at=next_due_at(
                    one.fetched_at, page.item_times if page else None, one.due_stretch
                )
                if page or s.RECENTLY_PLAYED in outcome.failures
                else None,
                error_code=failure.code if failure else None,
                error_message=failure.message if failure else None,
            )
        )
    save_results(conn, results)
