"""Counts every day again from the simulator's own books, without using the pipeline's code.

What must be stored is what the simulator served, plus what was stored before this demo and the
simulator really played. Days follow from that with the standard library's time zones alone.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from spotify_pipeline.simulator.control import LedgerPlay, ListenerInfo, Simulator
from spotify_pipeline.storage.listening.audit import Day, PlayKey, stored_days, stored_plays
from spotify_pipeline.storage.listening.coverage import read_coverage
from spotify_pipeline.storage.postgres.types import Connection

_A_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Recount:
    """How the stored days of one listener compare with the books."""

    days: int
    wrong_days: tuple[date, ...]
    plays: int
    # Played, but among the last 50 at none of the polls: nobody can have these ...
    never_visible: int
    # ... and of those, how many lie inside a gap that the pipeline has noticed.
    inside_gaps: int

    @property
    def equal(self) -> bool:
        """Every day, to the millisecond."""
        return not self.wrong_days


def recount(
    conn: Connection, simulator: Simulator, listener: ListenerInfo, kept: set[PlayKey]
) -> Recount:
    """Compare daily_listening with the books; `kept` is what was stored before this demo."""
    stored = stored_days(conn, listener.user_id)
    first = min((played_at for played_at, _ in stored_plays(conn, listener.user_id)), default=None)
    if first is None:
        return Recount(0, (), 0, 0, 0)
    # `since` is exclusive: begin a day before the first stored play.
    played = simulator.ledger(listener.user_id, since=_day_before(first))
    known = [play for play in played if play.served or (play.played_at, play.track_id) in kept]
    expected = _days(known, ZoneInfo(listener.timezone))
    wrong = {day for day in stored.keys() | expected.keys() if stored.get(day) != expected.get(day)}
    known_keys = {(play.played_at, play.track_id) for play in known}
    missed = [
        play
        for play in played
        # A play that is still visible will be collected by the next poll.
        if play.published
        and not play.visible
        and play.played_at > first
        and (play.played_at, play.track_id) not in known_keys
    ]
    gaps = read_coverage(conn, [listener.user_id])[listener.user_id].open_gaps
    return Recount(
        days=len(stored),
        wrong_days=tuple(sorted(wrong)),
        plays=len(known),
        never_visible=len(missed),
        inside_gaps=sum(any(gap.contains(play.played_at) for gap in gaps) for play in missed),
    )


def _day_before(instant: datetime) -> datetime:
    return datetime.fromtimestamp(instant.timestamp() - 86_400, instant.tzinfo)


def _days(plays: list[LedgerPlay], zone: ZoneInfo) -> dict[date, Day]:
    milliseconds: dict[date, int] = defaultdict(int)
    count: dict[date, int] = defaultdict(int)
    before: datetime | None = None
    for play in sorted(plays, key=lambda play: (play.played_at, play.track_id)):
        day = play.played_at.astimezone(zone).date()
        # No more than the time since the play before, unless both ended within 30 s.
        since = (play.played_at - before) // _A_MILLISECOND if before else play.duration_ms
        milliseconds[day] += since if 30_000 <= since < play.duration_ms else play.duration_ms
        count[day] += 1
        before = play.played_at
    return {day: ((ms + 30_000) // 60_000, ms, count[day]) for day, ms in milliseconds.items()}
