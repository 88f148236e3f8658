"""When a user's plays must be collected again.

Spotify keeps only the last 50 plays, so the wait follows the user's own recent pace.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

# Half of what Spotify keeps: the other half is the margin for a pace that doubles.
GATHERED = 25
AT_MOST_EVERY = timedelta(minutes=15)
AT_LEAST_EVERY = timedelta(minutes=60)
INACTIVE_AFTER = timedelta(days=7)
INACTIVE_EVERY = timedelta(days=1)


def next_due_at(
    fetched_at: datetime, item_times: Sequence[datetime] | None, stretch: float = 1.0
) -> datetime:
    """The instant (UTC) of the next collection after one at `fetched_at`.

    `item_times` are the times of the page's items, newest first; None when the fetch failed, which
    is tried again at the shortest interval. The wait is the shortest time in which this user
    recently gathered 25 plays, within 15 to 60 minutes, times `stretch` (see
    `budget.due_stretch`); a day for those who stopped listening.
    """
    if item_times is None:
        return fetched_at + AT_MOST_EVERY * stretch
    if not item_times or fetched_at - item_times[0] > INACTIVE_AFTER:
        return fetched_at + INACTIVE_EVERY
    spans = [newer - older for newer, older in zip(item_times, item_times[GATHERED:], strict=False)]
    fastest = min(spans, default=AT_LEAST_EVERY)
    return fetched_at + min(max(fastest, AT_MOST_EVERY), AT_LEAST_EVERY) * stretch
