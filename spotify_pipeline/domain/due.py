"""When a user's plays must be collected again.

Spotify keeps only the last 50 plays, so the wait follows the user's own recent pace.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

# Half of the plays that Spotify keeps; the other half is the margin for a pace that doubles.
PLAYS_PER_POLL = 25
# The fewest plays that make a pace: a burst shows after 5 minutes, not after 25 plays.
SHORTEST_BURST = 8
AT_MOST_EVERY = timedelta(minutes=15)
AT_LEAST_EVERY = timedelta(minutes=60)
INACTIVE_AFTER = timedelta(days=7)
INACTIVE_EVERY = timedelta(days=1)

# The schedule `plays_poll` looks at every quarter hour, and a run reaches a user a little later:
# without rounding down 15 minutes would be 30, and 60 would be 75.
QUARTER = timedelta(minutes=15)
# A scheduled run skips data that is fresher than this.
AT_EARLIEST = timedelta(minutes=10)

# No user waits longer for the next collection: a later instant was written by a wrong clock.
LONGEST_WAIT = INACTIVE_EVERY + QUARTER
# Instants that are further ahead than this were written by a wrong clock.
CLOCKS_MAY_DIFFER = timedelta(minutes=1)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def next_due_at(
    fetched_at: datetime,
    item_times: Sequence[datetime] | None,
    stretch: float = 1.0,
    heard_at: datetime | None = None,
    failures: int = 1,
) -> datetime:
    """The quarter hour (UTC) of the next collection after one at `fetched_at`.

    `item_times` are the times of the page's items, newest first; None when the fetch failed, which
    is tried again at the next quarter hour (times `stretch`), and after more `failures` in a row
    after 30 minutes and then every hour. `heard_at` is when the user last
    connected or asked.

    With times t1 > t2 > ... the wait is 25 * min((t_i - t_j) / (j - i)) over all j >= i + 8: the
    time in which 25 plays gather at the fastest pace on the page, within 15 to 60 minutes, times
    `stretch` (see `quota.due_stretch`). A day for those of whom neither a play nor anything else
    was heard for 7 days.

    The instant is rounded down to the quarter hour, unless that is less than 10 minutes away.
    """
    if item_times is None:
        # The minimum of 10 minutes does not apply after a failed fetch.
        wait = min(AT_MOST_EVERY * 2 ** min(max(failures - 1, 0), 2), AT_LEAST_EVERY)
        return _on_the_quarter(fetched_at, wait * stretch, timedelta(0))
    heard = [*item_times[:1], *([heard_at] if heard_at else [])]
    if not heard or fetched_at - max(heard) > INACTIVE_AFTER:
        return _on_the_quarter(fetched_at, INACTIVE_EVERY)
    wait = min(max(_gathering_time(item_times), AT_MOST_EVERY), AT_LEAST_EVERY)
    return _on_the_quarter(fetched_at, wait * stretch)


def _gathering_time(item_times: Sequence[datetime]) -> timedelta:
    """In which 25 plays gather at the fastest pace of these times."""
    # A longer run is made of shorter ones and no faster than the fastest of them: those of 8 to 15
    # intervals are enough.
    paces = (
        (newer - older) / length
        for length in range(SHORTEST_BURST, 2 * SHORTEST_BURST)
        for newer, older in zip(item_times, item_times[length:], strict=False)
    )
    return PLAYS_PER_POLL * min(paces, default=AT_LEAST_EVERY)


def _on_the_quarter(
    fetched_at: datetime, wait: timedelta, at_earliest: timedelta = AT_EARLIEST
) -> datetime:
    due_at = fetched_at + wait
    quarter = due_at - (due_at - _EPOCH) % QUARTER
    return quarter if quarter - fetched_at >= at_earliest else quarter + QUARTER
