"""How long to wait before trying again: pure functions, seconds in and seconds out."""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from spotify_pipeline.domain.quota import LONGEST_PAUSE_SECONDS

NO_RETRY_AFTER_SECONDS = 30  # a 429 without the header: Spotify's rate window is 30 s long

_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]*)?", re.ASCII)


def backoff_seconds(failures: int, fraction: float) -> float:
    """The pause after `failures` (1, 2, …) failed tries: fraction · min(8, 0.5 · 2^(n-1)).

    `fraction` is drawn from [0, 1): "full jitter" of the AWS Architecture Blog, "Exponential
    Backoff And Jitter" (2015), so that many users who failed together do not come back together.
    """
    return fraction * min(8.0, 0.5 * 2.0 ** min(failures - 1, 32))


def retry_after_seconds(header: str | None, now: datetime) -> int:
    """The whole seconds that a Retry-After header asks for, from 1 to seven days.

    The header is a number of seconds or an HTTP date; absent or unreadable means 30.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    else:
        try:
            until = parsedate_to_datetime(text)
        except (ValueError, OverflowError):  # the latter: a zone of many digits
            return NO_RETRY_AFTER_SECONDS
        # RFC 5322 writes "-0000" for "UTC, zone unknown", which Python reads as a naive time.
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        seconds = (until - now).total_seconds()
    return min(max(math.ceil(seconds), 1), LONGEST_PAUSE_SECONDS)
