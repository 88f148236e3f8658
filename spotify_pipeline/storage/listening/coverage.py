"""Coverage, gaps and the log of fetched pages: what is known about completeness."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    Column,
    Connection,
    delete,
    func,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.listening.coverage import CoverageChange, Interval, KnownCoverage
from spotify_pipeline.domain.listening.recordings import PageMatch
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import insert_rows


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """What the log keeps of a recently-played page."""

    user_id: str
    fetched_at: datetime
    # Raw items, and the times of those that have a readable one.
    items: int
    item_times: tuple[datetime, ...]
    new_plays: int
    skipped: Mapping[str, int]
    change: CoverageChange


def read_known(conn: Connection, matches: Mapping[str, PageMatch]) -> dict[str, KnownCoverage]:
    """What is known of each user before a page, which was compared with the stored plays."""
    covers = read_covers(conn, matches)
    gaps = read_open_gaps(conn, matches)
    return {
        user_id: KnownCoverage(
            covered=tuple(covers.get(user_id, ())),
            open_gaps=tuple(gaps.get(user_id, ())),
            seen=match.seen,
            not_shown=match.not_shown,
        )
        for user_id, match in matches.items()
    }


def read_covers(
    conn: Connection, user_ids: Iterable[str], now: datetime | None = None
) -> dict[str, list[Interval]]:
    """Each user's covers, disjoint and in order; none reaches beyond `now` (None: the stored ends).

    A wrong clock may have stored an end in the future.
    """
    c = t.coverage
    if now is None:
        return _intervals(conn, c.c.user_id, c.c.covered_from, c.c.covered_to, user_ids)
    end = func.least(c.c.covered_to, now)
    return _intervals(conn, c.c.user_id, c.c.covered_from, end, user_ids, c.c.covered_from <= now)


def read_open_gaps(conn: Connection, user_ids: Iterable[str]) -> dict[str, list[Interval]]:
    """Each user's open gaps, in order."""
    g = t.listening_gaps
    return _intervals(
        conn, g.c.user_id, g.c.gap_start, g.c.gap_end, user_ids, g.c.closed_at.is_(None)
    )


def save_pages(
    conn: Connection,
    pages: Sequence[FetchedPage],
    covers_before: Mapping[str, Sequence[Interval]],
) -> None:
    """Log the pages; write the covers and gaps that changed."""
    if not pages:
        return
    log = [
        {
            "user_id": page.user_id,
            "fetched_at": page.fetched_at,
            "items": page.items,
            "new_plays": page.new_plays,
            "skipped": dict(page.skipped),
            "oldest_item_at": min(page.item_times, default=None),
            "newest_item_at": max(page.item_times, default=None),
            "overlapped": page.change.overlapped,
        }
        for page in pages
    ]
    conn.execute(insert_rows(t.fetch_log, log))
    _save_covers(conn, pages, covers_before)
    _save_gaps(conn, pages)


def _save_covers(
    conn: Connection,
    pages: Sequence[FetchedPage],
    covers_before: Mapping[str, Sequence[Interval]],
) -> None:
    c = t.coverage
    before = {(p.user_id, cover) for p in pages for cover in covers_before[p.user_id]}
    after = {(p.user_id, cover) for p in pages for cover in p.change.covered}
    if gone := before - after:
        keys = sorted((user_id, cover.start) for user_id, cover in gone)
        conn.execute(delete(c).where(tuple_(c.c.user_id, c.c.covered_from).in_(keys)))
    if new := after - before:
        covers = [
            {"user_id": user_id, "covered_from": cover.start, "covered_to": cover.end}
            for user_id, cover in sorted(new)
        ]
        conn.execute(insert_rows(c, covers))


def _save_gaps(conn: Connection, pages: Sequence[FetchedPage]) -> None:
    g = t.listening_gaps
    for page in pages:
        for gap in page.change.closed:
            conn.execute(
                update(g)
                .where(
                    g.c.user_id == page.user_id,
                    g.c.gap_start == gap.start,
                    g.c.closed_at.is_(None),
                )
                .values(closed_at=page.fetched_at, closed_by="page")
            )
    opened = [(page, page.change.opened) for page in pages if page.change.opened]
    if opened:
        # The same gap noticed again, after coverage was taken back by hand: it only widens.
        statement = insert(g)
        conn.execute(
            statement.on_conflict_do_update(
                index_elements=[g.c.user_id, g.c.gap_start],
                index_where=g.c.closed_at.is_(None),
                set_={"gap_end": func.greatest(g.c.gap_end, statement.excluded.gap_end)},
            ),
            [
                {
                    "user_id": page.user_id,
                    "gap_start": gap.start,
                    "gap_end": gap.end,
                    "detected_at": page.fetched_at,
                }
                for page, gap in opened
            ],
        )


def _intervals(
    conn: Connection,
    user_id: Column[str],
    start: Column[datetime],
    end: ColumnElement[datetime],
    user_ids: Iterable[str],
    condition: ColumnElement[bool] | None = None,
) -> dict[str, list[Interval]]:
    intervals: dict[str, list[Interval]] = defaultdict(list)
    wanted = true() if condition is None else condition
    rows = conn.execute(
        select(user_id, start, end)
        .where(user_id.in_(list(user_ids)), wanted)
        .order_by(user_id, start)
    )
    for owner, first, last in rows:
        intervals[owner].append(Interval(first, last))
    return intervals
