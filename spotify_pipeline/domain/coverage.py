"""What is known about completeness: which time is covered, and where plays may be missing.

Spotify keeps the last 50 plays. A fetched page therefore vouches for the time from its oldest item
to the moment of the fetch, and for nothing before, unless Spotify said that there is nothing more.
Pages that overlap make one cover. Where two pages do not meet, plays may have fallen out of the
window in between: that is a gap. All instants are aware, UTC; intervals include both ends.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from spotify_pipeline.domain.parsing import FUTURE_AFTER

_A_DAY = timedelta(days=1)

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

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
    """What was known of a user before a page."""

    # Disjoint and sorted. Empty: nothing was ever fetched.
    covers: tuple[Interval, ...] = ()
    open_gaps: tuple[Interval, ...] = ()
    # Of all plays, and of those that Spotify's API has shown.
    newest_play_at: datetime | None = None
    oldest_api_play_at: datetime | None = None
    # The item times of the page that are API plays already stored.
    seen: frozenset[datetime] = frozenset()


@dataclass(frozen=True, slots=True)
class Account:
    """What a page changes: all covers after it, a gap it opened, the gaps it closed."""

    covers: tuple[Interval, ...]
    overlapped: bool
    opened: Interval | None = None
    closed: tuple[Interval, ...] = ()


def account_for_page(
    item_times: Collection[datetime], fetched_at: datetime, known: Known, *, is_all: bool
) -> Account:
    """Take a fetched page into account.

    `item_times` are those of all its raw items, also of skipped ones. `is_all`: Spotify says that
    there is nothing before the page, because it is empty or `next` is null. A first page opens no
    gap, and neither does one that overlaps or reaches back to the beginning.
    """
    start = _vouched_from(item_times, known, is_all=is_all)
    if start is None:
        return Account(known.covers, overlapped=False)
    overlapped = any(time in known.seen or _inside(known.covers, time) for time in item_times)
    # Items may lie a little after the fetch, because Spotify's clock is not ours.
    first = min(start, fetched_at)
    opened = None
    if known.covers and overlapped:
        # The item that was seen may lie after the earlier fetch by the same difference of clocks.
        first = min(first, known.covers[-1].end)
    elif known.covers:
        since = known.newest_play_at or known.covers[-1].end
        until = min(start, fetched_at + FUTURE_AFTER)
        opened = Interval(since, until) if since < until else None
    return Account(
        covers=merge([*known.covers, Interval(first, fetched_at)]),
        overlapped=overlapped,
        opened=opened,
        closed=tuple(gap for gap in known.open_gaps if start <= gap.start),
    )


def _vouched_from(
    item_times: Collection[datetime], known: Known, *, is_all: bool
) -> datetime | None:
    """Since when a page shows every play; None: it shows nothing.

    Spotify may claim that nothing is older, yet have shown an older play before. An empty answer
    to somebody who has listened is the plainest case: it is a failure that looks like a success,
    and believing it would call every lost play known.
    """
    oldest = min(item_times, default=None)
    shown = known.oldest_api_play_at
    contradicted = shown is not None and (oldest is None or shown < oldest)
    return BEGINNING if is_all and not contradicted else oldest


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
