"""Plays lost and calls made when plays are collected every 24 hours, every hour, or when due.

    python -m benchmarks.due [--days 60] [--seeds 3] [--out FILE]
    python -m benchmarks.due --export StreamingHistory_music_0.json [--export …]

Replays listeners against Spotify's window of the last 50 plays: what a collection no longer finds
there is lost. Collections happen as with the schedule `plays_poll`: on quarter hours, by a run
that reaches a user 5 to 90 seconds later. Each five listeners share a developer account of 1000
calls a day, of which 6 per user go to top lists at 3:00; when calls run low, due times stretch.
"""

import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.lives import BadExport, Life, groups, read_export
from benchmarks.machine import RESULTS, save
from spotify_pipeline.domain.due import next_due_at
from spotify_pipeline.domain.quota import SLOT_SECONDS, SLOTS, BudgetState, Quota, due_stretch
from spotify_pipeline.simulator.music.seeds import seeded

WINDOW = 50
GROUP = 5
ALLOWANCE = Quota(calls_per_window=90, calls_per_day=1000)
TOP_LISTS, TOP_LISTS_HOUR = 6, 3

# Arguments: fetched_at, times of the page newest first, stretch, connected. Returns the due time.
Strategy = Callable[[datetime, list[datetime], float, datetime], datetime]


def _every(hours: int) -> Strategy:
    def strategy(at: datetime, page: list[datetime], stretch: float, heard: datetime) -> datetime:
        start = at.replace(minute=0, second=0, microsecond=0)
        return start + timedelta(hours=hours)

    return strategy


STRATEGIES: dict[str, Strategy] = {
    "every 24 h": _every(24),
    "every 1 h": _every(1),
    "when due": next_due_at,
}


@dataclass
class Row:
    """The result of one strategy with one kind of listeners."""

    kind: str
    strategy: str
    users: int = 0
    user_days: float = 0.0
    plays: int = 0
    lost: int = 0
    calls: int = 0
    longest_stretch: float = 1.0

    @property
    def figures(self) -> dict[str, object]:
        """The row as JSON."""
        per_day = self.calls / self.user_days
        share = self.lost / max(1, self.plays)
        return asdict(self) | {"share_lost": share, "calls_per_user_and_day": per_day}

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as table cells."""
        return (
            self.kind,
            self.strategy,
            f"{self.plays}",
            f"{self.lost}",
            f"{100 * self.lost / max(1, self.plays):.3f} %",
            f"{self.calls / self.user_days:.1f}",
            f"{self.longest_stretch:.1f}",
        )


class Budget:
    """The calls of one developer app in the last 24 hours, per quarter of an hour."""

    def __init__(self) -> None:
        self._slots = deque([0] * SLOTS, maxlen=SLOTS)

    def next_slot(self) -> None:
        """Moves to the next quarter of an hour."""
        self._slots.appendleft(0)

    def take(self, calls: int) -> None:
        """Books calls."""
        self._slots[0] += calls

    def plays_left(self) -> bool:
        """Whether scheduled plays may still be fetched."""
        return sum(self._slots) < ALLOWANCE.day_of("plays")

    def stretch(self, now: datetime) -> float:
        """See quota.due_stretch."""
        slot = int(now.timestamp() // SLOT_SECONDS)
        return due_stretch(BudgetState(now, now, slot, self._slots, None, None), ALLOWANCE)


def replay(lives: Sequence[Life], strategy: Strategy, row: Row) -> None:
    """Adds to the row the results of these listeners, who share a developer app."""
    rng, budget = seeded("latency"), Budget()
    connected = [bisect_right(life.plays, life.connected) for life in lives]
    seen, due = list(connected), [life.connected for life in lives]
    tick = min(due) // SLOT_SECONDS * SLOT_SECONDS
    end = max(life.plays[-1] for life in lives if life.plays) + 3600
    row.users += len(lives)
    row.user_days += len(lives) * (end - tick) / 86400
    while tick < end:
        budget.next_slot()
        if tick % 86400 == TOP_LISTS_HOUR * 3600:
            budget.take(TOP_LISTS * len(lives))
        for number, life in enumerate(lives):
            if due[number] > tick or not budget.plays_left():
                continue
            at = datetime.fromtimestamp(tick + rng.uniform(5, 90), UTC)
            upto = bisect_right(life.plays, at.timestamp())
            oldest = max(0, upto - WINDOW)
            row.lost += max(0, oldest - seen[number])
            row.plays += upto - seen[number]
            seen[number] = upto
            budget.take(1)
            row.calls += 1
            stretch = budget.stretch(at)
            row.longest_stretch = max(row.longest_stretch, stretch)
            page = [datetime.fromtimestamp(t, UTC) for t in reversed(life.plays[oldest:upto])]
            since = datetime.fromtimestamp(life.connected, UTC)
            due[number] = strategy(at, page, stretch, since).timestamp()
        tick += SLOT_SECONDS


def measure(kinds: Sequence[tuple[str, list[Life]]]) -> list[Row]:
    """Runs every strategy on every kind of listeners."""
    rows: dict[tuple[str, str], Row] = {}
    for kind, lives in track(kinds, "Replaying", console=Console(stderr=True), transient=True):
        for name, strategy in STRATEGIES.items():
            replay(lives, strategy, rows.setdefault((kind, name), Row(kind, name)))
    return list(rows.values())


@click.command(help=__doc__)
@click.option("--days", default=60, show_default=True, type=click.IntRange(7))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--export", "exports", multiple=True, type=click.Path(path_type=Path))
@click.option(
    "--out", default=RESULTS / "due.json", show_default=True, type=click.Path(path_type=Path)
)
def main(days: int, seeds: int, exports: tuple[Path, ...], out: Path) -> None:
    """See the module."""
    try:
        kinds = (
            [("export", [read_export(exports)])] if exports else list(groups(GROUP, days, seeds))
        )
    except BadExport as error:
        click.echo(error, err=True)
        sys.exit(2)
    rows = measure(kinds)
    save(out, {"rows": [row.figures for row in rows]})
    table = Table("listeners", "collected", "plays", "lost", "share", "calls a day", "stretch")
    for row in rows:
        table.add_row(*row.cells, end_section=row.strategy == "when due")
    Console().print(table)


if __name__ == "__main__":
    main()
