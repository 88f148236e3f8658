"""Coverage: the intervals in which every play of a user is known, and the gaps between them.

Spotify serves at most the last 50 plays, and only those of the last 7 days. A page covers the
interval from its oldest item to the fetch; a page that is clearly short, or empty, covers 7 days.
Covered intervals that touch are merged. If a page does not reach back to the previous coverage,
plays may have been lost: a gap. All instants are aware, UTC; intervals include both ends. Also
here: the instants of a local day, and how complete a day is.
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
# Requested items per page. A full window may come with 49, so only a clearly shorter page is short.
PAGE_SIZE = 50
SHORT_BY = 10
# Before the 7-day limit Spotify showed items up to 22 days old. An older item has a wrong time;
# without this limit its page would cover months in which plays are missing.
OLDEST_ITEM = timedelta(days=30)

# Plays arrive up to hours late, so a day is complete only this long after its end.
COMPLETE_AFTER = timedelta(hours=6)

Completeness = Literal["complete", "at_least", "unknown"]


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """From `start` to `end`, both included."""

    start: datetime
    end: datetime

    def touches(self, other: "Interval") -> bool:
        """Whether they share at least an instant."""
        return self.start <= other.end and other.start <= self.end

    def contains(self, instant: datetime) -> bool:
        """Whether the instant is in the interval, ends included."""
        return self.start <= instant <= self.end


@dataclass(frozen=True, slots=True)
class KnownCoverage:
    """A user's coverage before a page, and which known plays the page shows."""

    # Disjoint and sorted. Empty: nothing was ever fetched.
    covered: tuple[Interval, ...] = ()
    open_gaps: tuple[Interval, ...] = ()
    # The page's item times that an earlier page had shown too, re-stamped ones included.
    seen: frozenset[datetime] = frozenset()
    # Instants of stored API plays of the last 7 days that the page does not show.
    not_shown: frozenset[datetime] = frozenset()


@dataclass(frozen=True, slots=True)
class CoverageChange:
    """A user's coverage after a page, the gap that the page opened, the gaps it closed."""

    covered: tuple[Interval, ...]
    overlapped: bool
    opened: Interval | None = None
    closed: tuple[Interval, ...] = ()


def is_short_page(items: int, readable_items: int, *, has_more: bool) -> bool:
    """Whether a page shows all plays of the last 7 days: empty, or clearly shorter than requested.

    `items` counts the raw items, `readable_items` those with a plausible time. An item without one
    may be any play, so the page does not show all.
    """
    if items == 0:
        return True
    return readable_items == items and not has_more and items <= PAGE_SIZE - SHORT_BY


def plausible_times(item_times: Iterable[datetime], fetched_at: datetime) -> tuple[datetime, ...]:
    """The item times that are at most OLDEST_ITEM before the fetch."""
    return tuple(time for time in item_times if time >= fetched_at - OLDEST_ITEM)


def page_span_start(
    item_times: Collection[datetime], fetched_at: datetime, *, is_short: bool
) -> datetime | None:
    """The instant since which a page shows every play, unless Spotify is failing.

    None if the page has items but none with a plausible time.
    """
    times = [*item_times, *([fetched_at - SERVED_WINDOW] if is_short else ())]
    return min(times, default=None)


def apply_page(
    item_times: Collection[datetime], fetched_at: datetime, known: KnownCoverage, *, is_short: bool
) -> CoverageChange:
    """Extends the coverage by a fetched page; opens and closes gaps.

    `item_times` are those of all raw items, including skipped ones. A page that does not overlap
    the known coverage opens a gap from the end of the previous interval. The first page opens none,
    and neither does an empty one.
    """
    start = _covered_from(item_times, fetched_at, known, is_short=is_short)
    if start is None:
        return CoverageChange(known.covered, overlapped=False)
    # Items may lie a little after the fetch because of clock skew between Spotify and us.
    added = Interval(min(start, fetched_at), fetched_at)
    overlapped = any(time in known.seen or _inside(known.covered, time) for time in item_times)
    if overlapped and known.covered:
        # The item seen before may lie after the earlier fetch by the same clock skew.
        added = Interval(min(added.start, known.covered[-1].end), fetched_at)
    overlapped = overlapped or any(added.touches(before) for before in known.covered)
    opened = None
    if item_times and not overlapped:
        since = max((c.end for c in known.covered if c.end < added.start), default=None)
        # The gap ends with the oldest item, even if our clock is behind Spotify's.
        until = min(start, fetched_at + FUTURE_AFTER)
        opened = Interval(since, until) if since is not None and since < until else None
    return CoverageChange(
        covered=merge([*known.covered, added]),
        overlapped=overlapped,
        opened=opened,
        closed=tuple(gap for gap in known.open_gaps if start <= gap.start),
    )


def _covered_from(
    item_times: Collection[datetime], fetched_at: datetime, known: KnownCoverage, *, is_short: bool
) -> datetime | None:
    """The start of the interval that a page covers; None: it covers nothing.

    A short page that lacks a play of the last 7 days that Spotify has shown before, and that is
    older than all its items, is the false success of a failing Spotify. Treating it as short would
    mark the time of every lost play as covered.
    """
    oldest = min(item_times, default=None)
    # Clock skew: a play may just have left Spotify's window.
    since = fetched_at - SERVED_WINDOW + FUTURE_AFTER
    contradicted = any(since <= t and (oldest is None or t < oldest) for t in known.not_shown)
    return page_span_start(item_times, fetched_at, is_short=is_short and not contradicted)


def merge(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
    """The union of the intervals, as disjoint intervals, sorted."""
    merged: list[Interval] = []
    for interval in sorted(intervals):
        if merged and interval.start <= merged[-1].end:
            merged[-1] = Interval(merged[-1].start, max(merged[-1].end, interval.end))
        else:
            merged.append(interval)
    return tuple(merged)


@lru_cache(maxsize=10_000)
def local_day(day: date, zone: ZoneInfo) -> Interval:
    """The instants of a local date, UTC: usually 24 hours, 23 or 25 when the clock changes.

    From its first instant to that of the next date, both included. If a clock was set back across
    midnight, this is the span of both parts. A date that the zone skipped is a single instant.
    """
    midnight, after = (
        datetime.combine(date_, time(), zone) for date_ in (day, day + timedelta(days=1))
    )
    # If midnight was skipped, fold 0 is the moment of the skip. If it came twice, fold 0 is the
    # first and fold 1 the second.
    start, end = midnight.astimezone(UTC), after.astimezone(UTC)
    again = after.replace(fold=1).astimezone(UTC)
    # Most clocks set back at night never show the old date again (Havana: from 1:00 to 0:00), but
    # some did (St. John's until 2011: from 0:01 to 23:01).
    if again > end and (again - datetime.resolution).astimezone(zone).date() == day:
        end = again
    return Interval(start, end)


def first_whole_day(cut: datetime, zone: ZoneInfo) -> date:
    """The first local date that begins at or after this instant."""
    day = cut.astimezone(zone).date()
    while local_day(day, zone).start < cut:
        day += timedelta(days=1)
    return day


def completeness(
    day: Interval,
    covered: Sequence[Interval],
    open_gaps: Sequence[Interval],
    fetched_at: datetime | None,
    *,
    has_play: bool,
    imported: Sequence[Interval] = (),
) -> Completeness:
    """How much of a local day is known; `fetched_at` is the last successful fetch.

    complete: the whole day lies in one covered interval, no open gap touches it, and a fetch came 6
    hours or more after its end, when late plays have arrived, or an imported file (`imported`)
    covers it and the 6 hours after it. at_least: it has a play or touches a
    covered interval. Today is never complete, because its end is in the future.
    """
    settled = day.end + COMPLETE_AFTER
    is_late_enough = (fetched_at is not None and fetched_at >= settled) or any(
        span.start <= day.start and settled <= span.end for span in imported
    )
    is_covered = any(span.start <= day.start and day.end <= span.end for span in covered)
    if is_late_enough and is_covered and not any(gap.touches(day) for gap in open_gaps):
        return "complete"
    if has_play or any(span.touches(day) for span in covered):
        return "at_least"
    return "unknown"


def observed_days(
    covered: Sequence[Interval], zone: ZoneInfo, today: date, first: date
) -> list[tuple[date, date]]:
    """The local days from `first` to today that lie in one covered interval, as (from, to), sorted.

    Today counts as soon as it has begun. `covered` are disjoint and sorted.
    """
    spans = []
    for interval in covered:
        # One day more than needed: where a clock was set back across midnight, dates overlap.
        begin = max(first, interval.start.astimezone(zone).date() - _A_DAY)
        end = min(today, interval.end.astimezone(zone).date() + _A_DAY)
        while begin <= end and local_day(begin, zone).start < interval.start:
            begin += _A_DAY
        while begin <= end and interval.end < _end_so_far(end, zone, today):
            end -= _A_DAY
        if begin <= end:
            spans.append((begin, end))
    return spans


def _end_so_far(day: date, zone: ZoneInfo, today: date) -> datetime:
    span = local_day(day, zone)
    return span.start if day == today else span.end


def _inside(intervals: Sequence[Interval], instant: datetime) -> bool:
    """Whether an instant lies in one of these disjoint, sorted intervals."""
    index = bisect_right([interval.start for interval in intervals], instant) - 1
    return index >= 0 and intervals[index].contains(instant)
