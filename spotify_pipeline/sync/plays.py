"""Stores recently-played pages: new plays, coverage, gaps, and the log of pages."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from spotify_pipeline.domain.listening.coverage import (
    KnownCoverage,
    apply_page,
    is_short_page,
    page_span_start,
    plausible_times,
)
from spotify_pipeline.domain.listening.recordings import PageMatch, match_page
from spotify_pipeline.domain.model import PlaysPage, Track
from spotify_pipeline.storage.imports.merge import compute_plays, users_to_compute
from spotify_pipeline.storage.listening.coverage import (
    NO_COVERAGE,
    Coverage,
    FetchedPage,
    close_imported_gaps,
    read_coverage,
    save_pages,
)
from spotify_pipeline.storage.listening.plays import insert_plays, read_stored_plays, save_restamped
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.sync.fetch import FetchedUser


@dataclass(frozen=True, slots=True)
class StoredUser:
    """A user whose plays are stored: what days and personality are computed from."""

    user_id: str
    timezone: str
    coverage: Coverage = NO_COVERAGE
    # When the plays that this sync has added ended.
    new_plays: tuple[datetime, ...] = ()
    # The last successful fetch of plays.
    plays_fetched_at: datetime | None = None
    # Where retention has cut: days before are frozen.
    plays_from: datetime | None = None
    # Every day has to be computed again.
    days_stale: bool = False


@dataclass(frozen=True, slots=True)
class _Page:
    """A page and since when it shows every play (None: it shows nothing)."""

    page: PlaysPage
    fetched_at: datetime
    item_times: tuple[datetime, ...]
    is_short: bool
    span_start: datetime | None
    tracks: Mapping[str, Track]


def store_plays(
    conn: Connection, users: Sequence[FetchedUser], now: datetime, *, rebuild: bool = False
) -> list[StoredUser]:
    """Insert the new plays of these users' pages; extend coverage, open and close gaps.

    Users without a page keep what they have. `rebuild`: all their days are stale.
    """
    coverage = read_coverage(conn, [fetched.user_id for fetched in users])
    pages = {f.user_id: _prepare(f, f.plays) for f in users if f.plays}
    matches = _match(conn, pages)
    new_plays = defaultdict(list)
    for user_id, played_at in insert_plays(
        conn,
        {
            user_id: [(play, pages[user_id].tracks[play.track_id]) for play in match.new]
            for user_id, match in matches.items()
        },
    ):
        new_plays[user_id].append(played_at)
    save_restamped(
        conn, {u: (pages[u].fetched_at, match.restamped) for u, match in matches.items()}
    )
    logged = [
        _apply(user_id, page, matches[user_id], coverage[user_id], len(new_plays[user_id]))
        for user_id, page in pages.items()
    ]
    save_pages(conn, logged, coverage)
    coverage |= {page.user_id: coverage[page.user_id].after(page.change) for page in logged}
    if imported := [user_id for user_id, known in coverage.items() if known.imported]:
        close_imported_gaps(conn, imported, now)
        coverage |= {user_id: coverage[user_id].without_imported_gaps() for user_id in imported}
    recomputed = _match_imported(conn, imported, new_plays, matches)
    return [
        StoredUser(
            user_id=fetched.user_id,
            timezone=fetched.user.timezone,
            coverage=coverage[fetched.user_id].until(now),
            new_plays=tuple(new_plays[fetched.user_id]),
            plays_fetched_at=fetched.fetched_at if fetched.plays else fetched.user.plays_fetched_at,
            plays_from=fetched.user.plays_from,
            days_stale=rebuild or fetched.user.days_stale or fetched.user_id in recomputed,
        )
        for fetched in users
    ]


def _match_imported(
    conn: Connection,
    imported: Sequence[str],
    new_plays: Mapping[str, Sequence[datetime]],
    matches: Mapping[str, PageMatch],
) -> set[str]:
    """Compute plays again for users of whose imports new API plays may be a row; returns them.

    Rare: an export seldom reaches to what the API still lists.
    """
    shown = {
        user_id: min(
            [*new_plays.get(user_id, ()), *(moved.play.played_at for moved in match.restamped)],
            default=None,
        )
        for user_id, match in matches.items()
        if user_id in imported
    }
    since = {user_id: first for user_id, first in shown.items() if first is not None}
    users = users_to_compute(conn, since) if since else []
    for user_id in users:
        compute_plays(conn, user_id)
    return set(users)


def _match(conn: Connection, pages: Mapping[str, _Page]) -> dict[str, PageMatch]:
    """Each page compared with the stored plays of the time that it shows."""
    stored = read_stored_plays(
        conn, {u: page.span_start for u, page in pages.items() if page.span_start is not None}
    )
    return {
        user_id: match_page(page.page.plays, page.tracks, stored.get(user_id, ()), page.span_start)
        for user_id, page in pages.items()
    }


def _apply(
    user_id: str, page: _Page, match: PageMatch, coverage: Coverage, new_plays: int
) -> FetchedPage:
    known = KnownCoverage(coverage.covers, coverage.open_gaps, match.seen, match.not_shown)
    restamped = {"restamped": len(match.restamped)} if match.restamped else {}
    return FetchedPage(
        user_id=user_id,
        fetched_at=page.fetched_at,
        items=page.page.items,
        item_times=page.page.item_times,
        new_plays=new_plays,
        skipped={**page.page.skipped, **restamped},
        change=apply_page(page.item_times, page.fetched_at, known, is_short=page.is_short),
    )


def _prepare(fetched: FetchedUser, page: PlaysPage) -> _Page:
    times = plausible_times(page.item_times, fetched.fetched_at)
    is_short = is_short_page(page.items, len(times), has_more=page.has_more)
    return _Page(
        page=_without_deleted(page, fetched.user.plays_from),
        fetched_at=fetched.fetched_at,
        item_times=times,
        is_short=is_short,
        span_start=page_span_start(times, fetched.fetched_at, is_short=is_short),
        tracks={track.spotify_id: track for track in page.tracks},
    )


def _without_deleted(page: PlaysPage, since: datetime | None) -> PlaysPage:
    """The page without plays that retention has deleted: their days are frozen."""
    if since is None:
        return page
    plays = tuple(play for play in page.plays if play.played_at >= since)
    if refused := len(page.plays) - len(plays):
        page = replace(page, plays=plays, skipped={**page.skipped, "before_retention": refused})
    return page
