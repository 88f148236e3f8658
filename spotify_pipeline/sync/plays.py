"""Stores what a recently-played page brought and what it says about completeness."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from spotify_pipeline.domain.listening.coverage import (
    apply_page,
    is_short_page,
    page_span_start,
    plausible_times,
)
from spotify_pipeline.domain.listening.recordings import PageMatch, match_page
from spotify_pipeline.domain.model import PlaysPage, Track
from spotify_pipeline.storage.listening.coverage import FetchedPage, read_known, save_pages
from spotify_pipeline.storage.listening.plays import insert_plays, read_stored_plays, save_restamped
from spotify_pipeline.sync.fetch import Collected


@dataclass(frozen=True, slots=True)
class _Page:
    """A page, when it was fetched, and since when it shows every play (None: it shows nothing)."""

    page: PlaysPage
    fetched_at: datetime
    item_times: tuple[datetime, ...]
    is_short: bool
    span_start: datetime | None


def store_pages(conn: Connection, collected: Sequence[Collected]) -> list[tuple[str, datetime]]:
    """Insert the new plays of these pages; extend covers, open and close gaps, log the pages.

    Returns the plays that were new, as (user_id, played_at).
    """
    pages = {
        user.listener.user_id: _prepare(user.plays, user.listener.plays_from, user.fetched_at)
        for user in collected
        if user.plays is not None
    }
    tracks = {u: {track.spotify_id: track for track in p.page.tracks} for u, p in pages.items()}
    matches = _match(conn, pages, tracks)
    new_plays = insert_plays(
        conn,
        {
            user_id: [(play, tracks[user_id][play.track_id]) for play in match.new]
            for user_id, match in matches.items()
        },
    )
    save_restamped(
        conn, {u: (pages[u].fetched_at, match.restamped) for u, match in matches.items()}
    )
    known = read_known(conn, matches)
    new = Counter(user_id for user_id, _ in new_plays)
    fetched = [
        FetchedPage(
            user_id=user_id,
            fetched_at=page.fetched_at,
            items=page.page.items,
            item_times=page.page.item_times,
            new_plays=new[user_id],
            skipped=_with_restamped(page.page.skipped, len(matches[user_id].restamped)),
            change=apply_page(
                page.item_times, page.fetched_at, known[user_id], is_short=page.is_short
            ),
        )
        for user_id, page in pages.items()
    ]
    save_pages(conn, fetched, {user_id: user.covered for user_id, user in known.items()})
    return new_plays


def _match(
    conn: Connection, pages: Mapping[str, _Page], tracks: Mapping[str, Mapping[str, Track]]
) -> dict[str, PageMatch]:
    """Each page compared with the stored plays of the time that it shows."""
    stored = read_stored_plays(
        conn, {u: page.span_start for u, page in pages.items() if page.span_start is not None}
    )
    return {
        user_id: match_page(
            page.page.plays, tracks[user_id], stored.get(user_id, ()), page.span_start
        )
        for user_id, page in pages.items()
    }


def _prepare(page: PlaysPage, plays_from: datetime | None, fetched_at: datetime) -> _Page:
    kept = _without_deleted(page, plays_from)
    times = plausible_times(page.item_times, fetched_at)
    is_short = is_short_page(page.items, len(times), has_more=page.has_more)
    start = page_span_start(times, fetched_at, is_short=is_short)
    return _Page(kept, fetched_at, times, is_short, start)


def _without_deleted(page: PlaysPage, since: datetime | None) -> PlaysPage:
    """The page without plays that retention has deleted; their day could not be counted again."""
    if since is None:
        return page
    plays = tuple(play for play in page.plays if play.played_at >= since)
    if refused := len(page.plays) - len(plays):
        page = replace(page, plays=plays, skipped={**page.skipped, "before_retention": refused})
    return page


def _with_restamped(skipped: Mapping[str, int], restamped: int) -> Mapping[str, int]:
    return {**skipped, "restamped": restamped} if restamped else skipped
