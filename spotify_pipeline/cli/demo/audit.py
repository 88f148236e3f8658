"""Counts every day again from the simulator's own books, without using the pipeline's code.

What must be stored is what the simulator served and exported, plus what was stored before this demo
and the simulator really played. Days follow from that with the standard library's time zones alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from spotify_pipeline.cli.demo.history import BookedRow
from spotify_pipeline.simulator.control import ListenerInfo, Simulator
from spotify_pipeline.storage.listening.audit import Day, PlayKey, first_api_play, stored_days
from spotify_pipeline.storage.listening.coverage import read_coverage
from spotify_pipeline.storage.postgres.types import Connection

_A_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Recount:
    """How the stored days of one listener compare with the books."""

    days: int
    wrong_days: tuple[date, ...]
    plays: int
    # Played, but among the last 50 at no poll: no client can have these ...
    never_visible: int
    # ... and of those, how many lie inside a gap that the pipeline has noticed.
    inside_gaps: int

    @property
    def equal(self) -> bool:
        """Every day, to the millisecond."""
        return not self.wrong_days


class _Known(NamedTuple):
    """A play that must be stored; `ms_played` is None if only the feed shows it."""

    played_at: datetime
    track: str
    duration_ms: int
    ms_played: int | None


def recount(
    conn: Connection,
    simulator: Simulator,
    listener: ListenerInfo,
    kept: set[PlayKey],
    exported: Sequence[BookedRow],
    since: datetime,
) -> Recount:
    """Compare daily_listening with the books from the first whole day after `since`.

    `kept` is what was stored before this demo, `exported` what was imported; exports begin at
    `since`.
    """
    zone = ZoneInfo(listener.timezone)
    first_day = since.astimezone(zone).date() + timedelta(days=1)
    stored = {
        day: row for day, row in stored_days(conn, listener.user_id).items() if day >= first_day
    }
    polled_from = first_api_play(conn, listener.user_id)
    if polled_from is None:
        return Recount(0, (), 0, 0, 0)
    # Exclusive: begin before the first play that was polled.
    lived = simulator.ledger(listener.user_id, since=polled_from - timedelta(days=1))
    polled = [play for play in lived if play.served or (play.played_at, play.track_id) in kept]
    heard = {row.played_at: row.ms_played for row in exported if row.played_at}
    known = [
        _Known(play.played_at, play.track_id, play.duration_ms, heard.get(play.played_at))
        for play in polled
    ]
    shown = {play.played_at for play in polled}
    known += [
        _Known(row.ended_at, row.track_uri, 0, row.ms_played)
        for row in exported
        if row.played_at not in shown
    ]
    expected = {day: row for day, row in _days(known, zone).items() if day >= first_day}
    wrong = {day for day in stored.keys() | expected.keys() if stored.get(day) != expected.get(day)}
    missed = [
        play
        for play in lived
        # A play that is still visible will be collected by the next poll.
        if play.published
        and not play.visible
        and play.played_at > polled_from
        and play.played_at not in shown | heard.keys()
    ]
    gaps = read_coverage(conn, [listener.user_id])[listener.user_id].open_gaps
    return Recount(
        days=len(stored),
        wrong_days=tuple(sorted(wrong)),
        plays=len(known),
        never_visible=len(missed),
        inside_gaps=sum(any(gap.contains(play.played_at) for gap in gaps) for play in missed),
    )


def _days(plays: list[_Known], zone: ZoneInfo) -> dict[date, Day]:
    milliseconds: dict[date, int] = defaultdict(int)
    count: dict[date, int] = defaultdict(int)
    before: datetime | None = None
    for play in sorted(plays, key=lambda play: (play.played_at, play.track)):
        day = play.played_at.astimezone(zone).date()
        # No more than the time since the play before, unless both ended within 30 s.
        since = (play.played_at - before) // _A_MILLISECOND if before else play.duration_ms
        estimate = since if 30_000 <= since < play.duration_ms else play.duration_ms
        milliseconds[day] += estimate if play.ms_played is None else play.ms_played
        # A shorter row of an export counts in the minutes only.
        count[day] += play.ms_played is None or play.ms_played >= 30_000
        before = play.played_at
    return {day: ((ms + 30_000) // 60_000, ms, count[day]) for day, ms in milliseconds.items()}
