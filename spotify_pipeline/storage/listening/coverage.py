"""Coverage, listening gaps and the log of fetched pages: what is known about completeness."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, literal, select, tuple_, union_all, update
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.domain.listening.coverage import CoverageChange, Interval
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import insert_rows


@dataclass(frozen=True, slots=True)
class Coverage:
    """A user's covered intervals, disjoint and in order, and open gaps, in order."""

    covers: tuple[Interval, ...] = ()
    open_gaps: tuple[Interval, ...] = ()

    def until(self, now: datetime) -> "Coverage":
        """Without what lies after `now`: a wrong clock may have stored an end in the future."""
        covers = tuple(
            Interval(cover.start, min(cover.end, now))
            for cover in self.covers
            if cover.start <= now
        )
        return Coverage(covers, self.open_gaps)

    def after(self, change: CoverageChange) -> "Coverage":
        """What is stored once a page's change is written."""
        gaps = {gap.start: gap for gap in self.open_gaps if gap not in change.closed}
        if opened := change.opened:
            known = gaps.get(opened.start, opened)
            gaps[opened.start] = Interval(opened.start, max(known.end, opened.end))
        return Coverage(change.covered, tuple(gaps[start] for start in sorted(gaps)))


NO_COVERAGE = Coverage()


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


def read_coverage(conn: Connection, user_ids: Iterable[str]) -> dict[str, Coverage]:
    """What is stored of each of these users; users without any have the empty coverage."""
    c, g = t.coverage, t.listening_gaps
    wanted = list(user_ids)
    covers = select(c.c.user_id, literal(False).label("is_gap"), c.c.covered_from, c.c.covered_to)
    gaps = select(g.c.user_id, literal(True), g.c.gap_start, g.c.gap_end)
    statement = union_all(
        covers.where(c.c.user_id.in_(wanted)),
        gaps.where(g.c.user_id.in_(wanted), g.c.closed_at.is_(None)),
    )
    intervals: dict[tuple[str, bool], list[Interval]] = {}
    for user_id, is_gap, start, end in conn.execute(statement):
        intervals.setdefault((user_id, is_gap), []).append(Interval(start, end))
    return {
        user_id: Coverage(
            covers=tuple(sorted(intervals.get((user_id, False), ()))),
            open_gaps=tuple(sorted(intervals.get((user_id, True), ()))),
        )
        for user_id in wanted
    }


def save_pages(
    conn: Connection,
    pages: Sequence[FetchedPage],
    before: Mapping[str, Coverage],
) -> None:
    """Log the pages; write the covers and gaps that differ from those stored before."""
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
    _save_covers(conn, pages, before)
    _save_gaps(conn, pages)


def _save_covers(
    conn: Connection,
    pages: Sequence[FetchedPage],
    before: Mapping[str, Coverage],
) -> None:
    c = t.coverage
    stored = {(p.user_id, cover) for p in pages for cover in before[p.user_id].covers}
    after = {(p.user_id, cover) for p in pages for cover in p.change.covered}
    if gone := stored - after:
        keys = sorted((user_id, cover.start) for user_id, cover in gone)
        conn.execute(delete(c).where(tuple_(c.c.user_id, c.c.covered_from).in_(keys)))
    if new := after - stored:
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
