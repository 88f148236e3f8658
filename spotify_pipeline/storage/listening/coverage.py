"""Coverage, listening gaps and the log of fetched pages: what is known about completeness."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, delete, func, literal, select, tuple_, union_all, update
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.domain.listening.coverage import CoverageChange, Interval, merge
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import insert_rows


@dataclass(frozen=True, slots=True)
class Coverage:
    """A user's covered intervals, disjoint and in order, and open gaps, in order.

    `covers` are those of the API's pages; a page is never compared with `imported`, so it does not
    matter which came first.
    """

    covers: tuple[Interval, ...] = ()
    open_gaps: tuple[Interval, ...] = ()
    # Covered by the files of imports.
    imported: tuple[Interval, ...] = ()

    @property
    def known(self) -> tuple[Interval, ...]:
        """The intervals that the API or an export covers, disjoint and in order."""
        return merge((*self.covers, *self.imported)) if self.imported else self.covers

    def until(self, now: datetime) -> "Coverage":
        """Without what lies after `now`: a wrong clock may have stored an end in the future."""
        covers = tuple(
            Interval(cover.start, min(cover.end, now))
            for cover in self.covers
            if cover.start <= now
        )
        return replace(self, covers=covers)

    def after(self, change: CoverageChange) -> "Coverage":
        """The coverage after a page's change is written, gaps that an import covers included."""
        gaps = {gap.start: gap for gap in self.open_gaps if gap not in change.closed}
        if opened := change.opened:
            known = gaps.get(opened.start, opened)
            gaps[opened.start] = Interval(opened.start, max(known.end, opened.end))
        open_gaps = tuple(gaps[start] for start in sorted(gaps))
        return replace(self, covers=change.covered, open_gaps=open_gaps)

    def without_imported_gaps(self) -> "Coverage":
        """Without the gaps that an import covers."""
        gaps = tuple(gap for gap in self.open_gaps if not _lies_in(gap, self.imported))
        return replace(self, open_gaps=gaps)


NO_COVERAGE = Coverage()


def _lies_in(gap: Interval, covers: Iterable[Interval]) -> bool:
    return any(cover.start <= gap.start and gap.end <= cover.end for cover in covers)


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """A row of fetch_log: one recently-played page."""

    user_id: str
    fetched_at: datetime
    # Raw items, and the times of those that have a readable one.
    items: int
    item_times: tuple[datetime, ...]
    new_plays: int
    skipped: Mapping[str, int]
    change: CoverageChange


def read_coverage(conn: Connection, user_ids: Iterable[str]) -> dict[str, Coverage]:
    """The stored coverage of each of these users; users without any have the empty coverage."""
    c, g = t.coverage, t.listening_gaps
    wanted = list(user_ids)
    covers = select(c.c.user_id, c.c.basis, c.c.covered_from, c.c.covered_to)
    gaps = select(g.c.user_id, literal("gap"), g.c.gap_start, g.c.gap_end)
    statement = union_all(
        covers.where(c.c.user_id.in_(wanted)),
        gaps.where(g.c.user_id.in_(wanted), g.c.closed_at.is_(None)),
    )
    intervals: dict[tuple[str, str], list[Interval]] = {}
    for user_id, kind, start, end in conn.execute(statement):
        intervals.setdefault((user_id, kind), []).append(Interval(start, end))
    return {
        user_id: Coverage(
            covers=tuple(sorted(intervals.get((user_id, "api"), ()))),
            open_gaps=tuple(sorted(intervals.get((user_id, "gap"), ()))),
            imported=tuple(sorted(intervals.get((user_id, "export"), ()))),
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


def add_imported(
    conn: Connection, user_id: str, spans: Iterable[Interval], closed_at: datetime
) -> bool:
    """Cover what the files of an import span, and close the gaps inside; whether that is new."""
    c = t.coverage
    before = read_coverage(conn, [user_id])[user_id].imported
    after = merge((*before, *spans))
    if after != before:
        conn.execute(delete(c).where(c.c.user_id == user_id, c.c.basis == "export"))
        covers = [
            {
                "user_id": user_id,
                "basis": "export",
                "covered_from": cover.start,
                "covered_to": cover.end,
            }
            for cover in after
        ]
        conn.execute(insert_rows(c, covers))
    close_imported_gaps(conn, [user_id], closed_at)
    return after != before


def close_imported_gaps(conn: Connection, user_ids: Iterable[str], closed_at: datetime) -> None:
    """Close the gaps of these users that an import covers, be it older or newer."""
    c, g = t.coverage, t.listening_gaps
    conn.execute(
        update(g)
        .where(
            g.c.user_id == c.c.user_id,
            c.c.basis == "export",
            c.c.covered_from <= g.c.gap_start,
            g.c.gap_end <= c.c.covered_to,
            g.c.user_id.in_(list(user_ids)),
            g.c.closed_at.is_(None),
        )
        .values(closed_at=func.greatest(g.c.detected_at, closed_at), closed_by="import")
    )


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
        conn.execute(
            delete(c).where(c.c.basis == "api", tuple_(c.c.user_id, c.c.covered_from).in_(keys))
        )
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
