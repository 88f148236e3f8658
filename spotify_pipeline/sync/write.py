"""Writes what was collected: the catalogue first, then one transaction for the whole set.

The catalogue is shared and harmless, so it has its own transaction and its locks are short. What
belongs to users is written only for those who still exist and whose lease is still ours, all of
it or nothing, equal in effect to a transaction per user. A set takes as many statements as a user.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from itertools import chain

from sqlalchemy import Connection, tuple_, update

from spotify_pipeline.domain import steps as s
from spotify_pipeline.domain.due import next_due_at
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.model import not_provided
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.listening.plays import count_plays
from spotify_pipeline.storage.listening.top_lists import (
    FetchedList,
    ListRows,
    replace_top_artists,
    replace_top_tracks,
)
from spotify_pipeline.storage.work.leases import Lease, lock_held
from spotify_pipeline.storage.work.sync_state import SyncResult, save_results
from spotify_pipeline.sync.bisect import bisect
from spotify_pipeline.sync.days import day_rows, rebuild_touched_days, refresh_completeness
from spotify_pipeline.sync.fetch import Collected
from spotify_pipeline.sync.outcome import (
    BLOCKED,
    StepFailure,
    StepRows,
    UserOutcome,
    still_possible,
)
from spotify_pipeline.sync.personality import rebuild_personality
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.plays import store_pages


def write(
    pipeline: Pipeline, lease: Lease, collected: Sequence[Collected], steps: Sequence[str]
) -> list[UserOutcome]:
    """Store everything for these users; when the data of one is refused, store the others.

    Returns one outcome per user, in order.
    """
    locked = [one.listener.user_id for one in collected if one.is_locked]
    outcomes = {user_id: UserOutcome(user_id, skipped=BLOCKED) for user_id in locked}
    in_order = [one.listener.user_id for one in collected]
    collected = [one for one in collected if not one.is_locked]
    refused = bisect(collected, lambda part: _write_catalogue(pipeline, part))
    everybody = [one.listener.user_id for one in collected]
    with pipeline.engine.begin() as conn:
        existing, ours, blocked = lock_held(conn, everybody, lease.lease_id)

        def write_part(part: Sequence[Collected]) -> None:
            with conn.begin_nested():
                outcomes.update(_write_users(conn, pipeline, part, steps))

        out = {one.listener.user_id for one in refused}
        refused += bisect([o for o in collected if o.listener.user_id in ours - out], write_part)
        # Of those who are refused nothing is written but how it went.
        failed = {o.listener.user_id: _failed(o, steps, ErrorCode.INTERNAL) for o in refused}
        _write_state(conn, [o for o in refused if o.listener.user_id in ours], steps, failed)
    outcomes |= failed
    for one in collected:
        user_id = one.listener.user_id
        if user_id not in existing:
            outcomes[user_id] = UserOutcome(user_id, gone=True)
        elif user_id in blocked:
            outcomes[user_id] = UserOutcome(user_id, skipped=BLOCKED)
        elif user_id not in ours:
            outcomes[user_id] = _failed(one, steps, ErrorCode.CRASHED)
    return [outcomes[user_id] for user_id in in_order]


def _failed(one: Collected, steps: Sequence[str], code: ErrorCode) -> UserOutcome:
    failure = StepFailure(code, WHAT_TO_DO[code])
    return UserOutcome(one.listener.user_id, failures=dict.fromkeys(steps, failure))


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
    conn: Connection, pipeline: Pipeline, kept: Sequence[Collected], steps: Sequence[str]
) -> dict[str, UserOutcome]:
    outcomes = {
        one.listener.user_id: UserOutcome(
            one.listener.user_id,
            failures=dict(one.failures),
            seconds=one.seconds,
            first=one.listener.plays_fetched_at is None,
        )
        for one in kept
    }
    _write_plays_and_days(conn, pipeline, kept, steps, outcomes)
    _write_tops(conn, kept, outcomes)
    _write_personality(conn, pipeline, kept, steps, outcomes)
    _write_state(conn, kept, steps, outcomes)
    return outcomes


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
    cuts = {one.listener.user_id: one.listener.plays_from for one in days_of}
    written = rebuild_touched_days(conn, zones, new_plays, stale, pipeline.now(), cuts)
    _mark_days(conn, stale, stale=False, zones=zones)
    fetched_at = {
        one.listener.user_id: one.fetched_at if one.plays else one.listener.plays_fetched_at
        for one in days_of
    }
    settled = refresh_completeness(conn, zones, fetched_at, stale, computed_at=pipeline.now())
    for user_id, rows in day_rows(conn, zones, written, settled).items():
        outcomes[user_id].done[s.DAILY_LISTENING] = rows


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
    artists = [
        (step, FetchedList(one.listener.user_id, top, one.fetched_at))
        for one in kept
        for step, top in one.top_artists.items()
    ]
    tracks = [
        (step, FetchedList(one.listener.user_id, top, one.fetched_at))
        for one in kept
        for step, top in one.top_tracks.items()
    ]
    rows = replace_top_artists(conn, [one for _, one in artists])
    for step, of in artists:
        left_out = not_provided(of.top.artists)
        outcomes[of.user_id].done[step] = _step_rows(rows[of.key], left_out)
    rows = replace_top_tracks(conn, [one for _, one in tracks])
    for step, listed in tracks:
        left_out = not_provided(listed.top.tracks)
        outcomes[listed.user_id].done[step] = _step_rows(rows[listed.key], left_out)


def _step_rows(rows: ListRows, left_out: tuple[str, ...]) -> StepRows:
    return StepRows(rows.total, rows.new, rows.changed, left_out)


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
                is_held_back=one.is_held_back,
                plays_fetched=page is not None,
                tops_fetched=tops <= outcome.done.keys(),
                next_due_at=next_due_at(
                    one.fetched_at,
                    page.item_times if page else None,
                    one.due_stretch,
                    one.listener.heard_at,
                    1 if one.is_held_back else one.listener.consecutive_failures + 1,
                )
                if page or s.RECENTLY_PLAYED in outcome.failures
                else None,
                error_code=failure.code if failure else None,
                error_message=failure.message if failure else None,
            )
        )
    save_results(conn, results)
