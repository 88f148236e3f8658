"""Coverage: which time is known completely, and where plays may be missing.

Spotify serves at most the last 50 plays, and only those of the last 7 days. A page covers the time
from its oldest item to the fetch; a page that is clearly short, or empty, covers 7 days. Covers
that touch merge. Where a page does not reach back to the coverage before it, plays may have been
lost: a gap. All instants are aware, UTC; intervals include both ends.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from spotify_pipeline.domain.parsing import FUTURE_AFTER

_A_DAY = timedelta(days=1)

# Spotify serves no older play (since 2026-05-26), so a short or empty page covers this much.
SERVED_WINDOW = timedelta(days=7)
# Items that Spotify is asked for. A full window may come with 49, so a page is short only when it
# is clearly so.
PAGE_SIZE = 50
SHORT_BY = 10
# Before it served 7 days only, Spotify showed items up to 22 days old. An older one has a wrong
# time, and a page covers nothing because of it.
OLDEST_ITEM = timedelta(days=30)

# Plays arrive up to hours late: a day is called complete only this long after its end.
SETTLED_AFTER = timedelta(hours=6)

Completeness = Literal["complete", "at_least", "unknown"]


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """From `start` to `end`, both included."""

    start: datetime
    end: datetime

    def touches(self, other: "Interval") -> bool:
        """They share at least an instant."""
        return self.start <= other.end and other.start <= self.end

    def contains(self, instant: datetime) -> bool:
        """The instant lies inside or on an end."""
        return self.start <= instant <= self.end


@dataclass(frozen=True, slots=True)
class Known:
    """What was known of a user before a page, and how the page compares with it."""

    # Disjoint and sorted. Empty: nothing was ever fetched.
    covers: tuple[Interval, ...] = ()
    open_gaps: tuple[Interval, ...] = ()
    # The item times of the page that stood on an earlier page, re-stamped ones included.
    seen: frozenset[datetime] = frozenset()
    # Instants of stored API plays of the last 7 days that the page does not show.
    not_shown: frozenset[datetime] = frozenset()


@dataclass(frozen=True, slots=True)
class CoverageChange:
    """What a page changes: all covers after it, a gap it opened, the gaps it closed."""

    covers: tuple[Interval, ...]
    overlapped: bool
    opened: Interval | None = None
    closed: tuple[Interval, ...] = ()


def is_short_page(items: int, readable_items: int, *, has_more: bool) -> bool:
    """Whether a page shows all plays of the last 7 days: empty, or clearly shorter than asked for.

    `items` are the raw items, `readable_items` those with a believable time. An item without one
    may be any play, so the page does not show all.
    """
    if items == 0:
        return True
    return readable_items == items and not has_more and items <= PAGE_SIZE - SHORT_BY


def believable(item_times: Iterable[datetime], fetched_at: datetime) -> tuple[datetime, ...]:
    """The item times that a page fetched then can have."""
    return tuple(time for time in item_times if time >= fetched_at - OLDEST_ITEM)


def page_span_start(
    item_times: Collection[datetime], fetched_at: datetime, *, is_short: bool
) -> datetime | None:
    """Since when a page shows every play, if it is no answer of a failing service; None: never."""
    times = [*item_times, *([fetched_at - SERVED_WINDOW] if is_short else ())]
    return min(times, default=None)


def apply_page(
    item_times: Collection[datetime], fetched_at: datetime, known: Known, *, is_short: bool
) -> CoverageChange:
    """Extend the coverage by a fetched page; open and close gaps.

    `item_times` are those of all its raw items, also of skipped ones. A page that does not overlap
    with what was known opens a gap from the end of the coverage before it. The first page opens
    none, and neither does an empty one.
    """
    start = _covered_from(item_times, fetched_at, known, is_short=is_short)
    if start is None:
        return CoverageChange(known.covers, overlapped=False)
    # Items may lie a little after the fetch, because Spotify's clock is not ours.
    cover = Interval(min(start, fetched_at), fetched_at)
    overlapped = any(time in known.seen or _inside(known.covers, time) for time in item_times)
    if overlapped and known.covers:
        # The item that was seen may lie after the earlier fetch by the same difference of clocks.
        cover = Interval(min(cover.start, known.covers[-1].end), fetched_at)
    overlapped = overlapped or any(cover.touches(before) for before in known.covers)
    opened = None
    if item_times and not overlapped:
        since = max((c.end for c in known.covers if c.end < cover.start), default=None)
        # The gap ends with the oldest item, also when our clock is behind Spotify's.
        until = min(start, fetched_at + FUTURE_AFTER)
        opened = Interval(since, until) if since is not None and since < until else None
    return CoverageChange(
        covers=merge([*known.covers, cover]),
        overlapped=overlapped,
        opened=opened,
        closed=tuple(gap for gap in known.open_gaps if start <= gap.start),
    )


def _covered_from(
    item_times: Collection[datetime], fetched_at: datetime, known: Known, *, is_short: bool
) -> datetime | None:
    """Since when a page is believed to show every play; None: it is believed nothing.

    A short page without a play that Spotify has shown before, of the last 7 days and older than
    all its items, is the answer of a failing service that looks like success. Believing it would
    call every lost play known.
    """
    oldest = min(item_times, default=None)
    # Spotify's clock may be ahead of ours: what has just left its window contradicts nothing.
    since = fetched_at - SERVED_WINDOW + FUTURE_AFTER
    contradicted = any(since <= t and (oldest is None or t < oldest) for t in known.not_shown)
    return page_span_start(item_times, fetched_at, is_short=is_short and not contradicted)


def merge(covers: Sequence[Interval]) -> tuple[Interval, ...]:
    """The same instants as disjoint intervals, sorted."""
    merged: list[Interval] = []
    for cover in sorted(covers):
        if merged and cover.start <= merged[-1].end:
            merged[-1] = Interval(merged[-1].start, max(merged[-1].end, cover.end))
        else:
            merged.append(cover)
    return tuple(merged)


@lru_cache(maxsize=10_000)
def local_day(day: date, zone: ZoneInfo) -> Interval:
    """The instants of a local date: 23, 24 or 25 hours, or whatever the zone did that day.

    From its first instant to that of the next date, both included. Where a clock was set back
    across midnight a date is two stretches; this is the whole span. A date that the zone skipped
    is a single instant.
    """
    midnight, after = (
        datetime.combine(date_, time(), zone) for date_ in (day, day + timedelta(days=1))
    )
    # Where midnight was skipped, fold 0 is the moment of the skip. Where it came twice, fold 0 is
    # the first and fold 1 the second.
    start, end = midnight.astimezone(UTC), after.astimezone(UTC)
    again = after.replace(fold=1).astimezone(UTC)
    # Most clocks set back at night never show the old date again (Havana: from 1:00 to 0:00), but
    # some did (St. John's until 2011: from 0:01 to 23:01).
    if again > end and (again - datetime.resolution).astimezone(zone).date() == day:
        end = again
    return Interval(start, end)


def first_whole_day(cut: datetime, zone: ZoneInfo) -> date:
    """The first local date that begins at this instant or later."""
    day = cut.astimezone(zone).date()
    while local_day(day, zone).start < cut:
        day += timedelta(days=1)
    return day


def completeness(
    day: Interval,
    covers: Sequence[Interval],
    open_gaps: Sequence[Interval],
    fetched_at: datetime | None,
    *,
    has_play: bool,
) -> Completeness:
    """How much of a local day is known; `fetched_at` is the last successful fetch.

    complete: the whole day lies in one cover, no open gap touches it, and a fetch came 6 hours or
    more after its end, so that late plays had their time. at_least: it has a play or touches a
    cover. Today is never complete, because its end is still to come.
    """
    settled = fetched_at is not None and fetched_at >= day.end + SETTLED_AFTER
    covered = any(cover.start <= day.start and day.end <= cover.end for cover in covers)
    if settled and covered and not any(gap.touches(day) for gap in open_gaps):
        return "complete"
    if has_play or any(cover.touches(day) for cover in covers):
        return "at_least"
    return "unknown"


def observed_days(
    covers: Sequence[Interval], zone: ZoneInfo, today: date, first: date
) -> list[tuple[date, date]]:
    """The local days from `first` to today that lie in one cover, as (from, to), in order.

    Today counts as soon as it has begun. `covers` are disjoint and in order.
    """
    spans = []
    for cover in covers:
        # A day too wide: where a clock was set back across midnight, dates overlap.
        begin = max(first, cover.start.astimezone(zone).date() - _A_DAY)
        end = min(today, cover.end.astimezone(zone).date() + _A_DAY)
        while begin <= end and local_day(begin, zone).start < cover.start:
            begin += _A_DAY
        while begin <= end and cover.end < _end_so_far(end, zone, today):
            end -= _A_DAY
        if begin <= end:
            spans.append((begin, end))
    return spans


def _end_so_far(day: date, zone: ZoneInfo, today: date) -> datetime:
    span = local_day(day, zone)
    return span.start if day == today else span.end


def _inside(covers: Sequence[Interval], instant: datetime) -> bool:
    """Whether an instant lies in one of these disjoint, sorted intervals."""
    place = bisect_right([cover.start for cover in covers], instant) - 1
    return place >= 0 and covers[place].contains(instant)
