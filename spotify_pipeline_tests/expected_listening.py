"""Oracle for listened time: the rules play by play, without the pipeline's code."""

from collections.abc import Iterable
from datetime import datetime, timedelta

# played_at, track_id, ms_played, length of the track
PlayFacts = tuple[datetime, str, int | None, int | None]


def listened_ms(plays: Iterable[PlayFacts]) -> dict[tuple[datetime, str], int]:
    """Milliseconds heard of each of one user's plays, by (played_at, track_id).

    ms_played if known; otherwise the length, or the time since the previous play ended, if that is
    shorter and at least 30 s.
    """
    heard: dict[tuple[datetime, str], int] = {}
    before: datetime | None = None
    for played_at, track_id, ms_played, length in sorted(plays, key=lambda play: play[:2]):
        estimate = length or 0
        if before is not None:
            since = (played_at - before) // timedelta(milliseconds=1)
            if 30_000 <= since < estimate:
                estimate = since
        heard[played_at, track_id] = estimate if ms_played is None else ms_played
        before = played_at
    return heard
