"""Compares the database with the simulator's ledger, without the pipeline's code.

Plain Python and the standard library's time zones, because shared code would hide its own bugs.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import chain
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, text

from spotify_pipeline.simulator.control import LedgerPlay, Listing
from spotify_pipeline_tests import expected_listening
from spotify_pipeline_tests.crashes.crash_scenario import LISTENED_BEFORE, START, CrashScenario

# Key of a stored or served play: user, instant, track. Of a true play: user, true end.
PlayKey = tuple[str, datetime, str]
Played = tuple[str, datetime]
DayKey = tuple[str, date]
# minutes, listened_ms, plays, unique tracks, unique artists, top track, top artist
Day = tuple[int, int, int, int, int, str | None, str | None]


@dataclass(frozen=True)
class PlayRow:
    """A play as stored or served."""

    user_id: str
    played_at: datetime
    track_id: str
    artist_id: str
    duration_ms: int

    @property
    def key(self) -> PlayKey:
        return (self.user_id, self.played_at, self.track_id)


@dataclass(frozen=True)
class DatabaseSnapshot:
    """All plays, days and top lists at one instant."""

    plays: Sequence[PlayRow]
    days: Mapping[DayKey, Day]
    # user, kind, time range -> rank and fetch time of each of its rows.
    lists: Mapping[tuple[str, str, str], Sequence[tuple[int, datetime]]]

    def half_written(self, zones: Mapping[str, str]) -> list[str]:
        """Days that differ from those of the stored plays, and incomplete top lists."""
        return [str(key) for key in differing_days(self.days, recount(self.plays, zones))] + [
            str(key)
            for key, rows in self.lists.items()
            if [rank for rank, _ in rows] != list(range(1, len(rows) + 1))
            or len({fetched_at for _, fetched_at in rows}) > 1
        ]


@dataclass(frozen=True)
class Findings:
    """The result of a comparison. The sets should be empty."""

    plays: int
    days: int
    # Plays that left Spotify's window before any sync completed: no design could store them.
    unseen: int
    lost: frozenset[Played]
    doubled: frozenset[Played]
    invented: frozenset[PlayKey]
    wrong_days: frozenset[DayKey]

    @property
    def clean(self) -> bool:
        """Whether no play is lost, doubled or invented, and no day is wrong."""
        return not (self.lost or self.doubled or self.invented or self.wrong_days)

    def __str__(self) -> str:
        return (
            f"{len(self.lost)} plays lost, {len(self.doubled)} doubled, "
            f"{len(self.invented)} invented, {len(self.wrong_days)} wrong days; "
            f"{self.plays:,} plays, {self.days} days, {self.unseen} plays never within reach"
        )


def compare(case: CrashScenario) -> Findings:
    """Compares the stored plays and days with true plays, served plays and reported syncs."""
    stored = read(case.scenario.pipeline.engine)
    # Every form in which a play was served: the true play, and the row it should become.
    served: dict[PlayKey, tuple[Played, PlayRow]] = {}
    required: set[Played] = set()
    left_window: set[Played] = set()
    for user_id in case.zones:
        for play in case.scenario.simulator.ledger(user_id, START - LISTENED_BEFORE):
            played = (user_id, play.played_at)
            for heard in (_play_row(user_id, play, listing) for listing in play.served_as):
                served[heard.key] = (played, heard)
            if play.played_at > START and play.published and not play.visible:
                left_window.add(played)
        for synced_at in set(case.synced_at.get(user_id, ())):
            ledger = case.scenario.simulator.ledger(user_id, START - LISTENED_BEFORE, at=synced_at)
            required |= {(user_id, play.played_at) for play in ledger if play.visible}
    keys = [heard.key for heard in stored.plays]
    found = Counter(served[key][0] for key in keys if key in served)
    known = [served[key][1] for key in keys if key in served]
    return Findings(
        plays=len(stored.plays),
        days=len(stored.days),
        unseen=len(left_window - required - found.keys()),
        lost=frozenset(required - found.keys()),
        doubled=frozenset(played for played, times in found.items() if times > 1),
        invented=frozenset(keys) - served.keys(),
        wrong_days=frozenset(differing_days(stored.days, recount(known, case.zones))),
    )


def recount(plays: Iterable[PlayRow], zones: Mapping[str, str]) -> dict[DayKey, Day]:
    """Computes every local day of these plays."""
    days: dict[DayKey, list[PlayRow]] = defaultdict(list)
    of_user: dict[str, list[PlayRow]] = defaultdict(list)
    for heard in plays:
        of_user[heard.user_id].append(heard)
    for heard in chain.from_iterable(_capped(of) for of in of_user.values()):
        zone = ZoneInfo(zones[heard.user_id])
        days[heard.user_id, heard.played_at.astimezone(zone).date()].append(heard)
    return {key: _day(sorted(plays, key=lambda h: h.played_at)) for key, plays in days.items()}


def _capped(plays: Sequence[PlayRow]) -> Iterator[PlayRow]:
    """A user's plays with the listened time in place of the track's length."""
    listened = expected_listening.listened_ms(
        (h.played_at, h.track_id, None, h.duration_ms) for h in plays
    )
    for heard in plays:
        yield replace(heard, duration_ms=listened[heard.played_at, heard.track_id])


def differing_days(stored: Mapping[DayKey, Day], counted: Mapping[DayKey, Day]) -> list[DayKey]:
    days = sorted(stored.keys() | counted.keys())
    return [key for key in days if stored.get(key) != counted.get(key)]


def read(engine: Engine) -> DatabaseSnapshot:
    """Reads everything in one REPEATABLE READ transaction."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn:
        plays = conn.execute(
            text(
                "SELECT user_id, played_at, track_id, artist_id, duration_ms"
                " FROM spotify_pipeline.plays"
            )
        ).all()
        days = conn.execute(
            text(
                "SELECT user_id, date, minutes, listened_ms, plays, unique_tracks, unique_artists,"
                " top_track_id, top_artist_id FROM spotify_pipeline.daily_listening"
            )
        ).all()
        rows = conn.execute(
            text(
                "SELECT user_id, 'artists', time_range, rank, fetched_at"
                " FROM spotify_pipeline.user_top_artists"
                " UNION ALL SELECT user_id, 'tracks', time_range, rank, fetched_at"
                " FROM spotify_pipeline.user_top_tracks ORDER BY rank"
            )
        ).all()
    lists = defaultdict(list)
    for user_id, kind, time_range, rank, fetched_at in rows:
        lists[user_id, kind, time_range].append((rank, fetched_at))
    return DatabaseSnapshot(
        [PlayRow(*play) for play in plays], {tuple(day[:2]): tuple(day[2:]) for day in days}, lists
    )


def _play_row(user_id: str, play: LedgerPlay, listing: Listing) -> PlayRow:
    return PlayRow(
        user_id,
        listing.played_at.astimezone(UTC),
        listing.track_id,
        play.artist_id,
        listing.duration_ms,
    )


def _day(plays: Sequence[PlayRow]) -> Day:
    listened_ms = sum(heard.duration_ms for heard in plays)
    return (
        (listened_ms + 30_000) // 60_000,
        listened_ms,
        len(plays),
        len({heard.track_id for heard in plays}),
        len({heard.artist_id for heard in plays}),
        _top([(heard.track_id, heard) for heard in plays]),
        _top([(heard.artist_id, heard) for heard in plays]),
    )


def _top(items: Sequence[tuple[str, PlayRow]]) -> str:
    """Most plays, then most listened, then the earliest play, then the lowest id."""
    ranks: dict[str, tuple[int, int, datetime, str]] = {}
    for item, heard in items:  # oldest first
        count, ms, first, _ = ranks.get(item, (0, 0, heard.played_at, item))
        ranks[item] = (count - 1, ms - heard.duration_ms, first, item)
    return min(ranks, key=ranks.__getitem__)
