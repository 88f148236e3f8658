"""Listening histories as plain play times: typical, adversarial and real ones.

A life is the Unix seconds at which plays ended, oldest first. It has no plays under 30 seconds,
because Spotify does not count them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from spotify_pipeline.simulator.music.catalogue import Catalogue
from spotify_pipeline.simulator.music.listeners import LISTENER_KINDS, Listener, to_ms
from spotify_pipeline.simulator.music.seeds import seeded

START = datetime(2026, 3, 2, tzinfo=UTC)
ZONES = (
    "Europe/Oslo",
    "Asia/Tokyo",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
)
HOUR, DAY = 3600.0, 86400.0
COUNTED_MS = 30_000


class BadExport(Exception):
    """A file is not part of an account-data export; the message says which and why."""


@dataclass(frozen=True)
class Life:
    """Plays of a user who connected at `connected` (Unix seconds)."""

    connected: float
    plays: Sequence[float]


def groups(size: int, days: int, seeds: int) -> Iterator[tuple[str, list[Life]]]:
    """Groups of `size` listeners of one kind, who share a developer app."""
    catalogue = Catalogue(1)
    for seed in range(seeds):
        for kind in LISTENER_KINDS:
            yield kind, [_simulated(catalogue, seed, kind, n, days) for n in range(size)]
        for name, make in HARD.items():
            rngs = [seeded(seed, name, number) for number in range(size)]
            yield name, [make(rng, days) for rng in rngs]
        yield (
            "holidays",
            [_with_holidays(_simulated(catalogue, seed, "heavy", n, days)) for n in range(size)],
        )


def _simulated(catalogue: Catalogue, seed: int, kind: str, number: int, days: int) -> Life:
    zone = ZONES[(seed + number) % len(ZONES)]
    listener = Listener(catalogue, seed, f"{kind}-{number}", zone, LISTENER_KINDS[kind])
    end = START + timedelta(days=days)
    plays = listener.plays(to_ms(START - timedelta(days=2)), to_ms(end))
    return Life(START.timestamp(), [play.end_ms / 1000 for play in plays])


def _with_holidays(life: Life) -> Life:
    """Removes the plays of 12 days in every 20."""
    return Life(
        life.connected,
        [play for play in life.plays if (play - life.connected) % (20 * DAY) < 8 * DAY],
    )


def _session(
    rng: Random, start: float, hours: float, shortest: float, longest: float
) -> list[float]:
    """Continuous plays from `start` on."""
    times, clock = [], start
    while clock < start + hours * HOUR:
        clock += rng.uniform(shortest, longest)
        times.append(clock)
    return times


def _quiet_evening(rng: Random, midnight: float) -> list[float]:
    return _session(rng, midnight + rng.uniform(17, 19) * HOUR, 1, 180, 260)


def _binger(rng: Random, days: int) -> Life:
    """Quiet evenings; every third day one to three hours of 40-second tracks."""
    plays = []
    for day in range(days):
        midnight = START.timestamp() + day * DAY
        plays += _quiet_evening(rng, midnight)
        if rng.random() < 1 / 3:
            start = midnight + rng.uniform(6, 15) * HOUR
            plays += _session(rng, start, min(rng.uniform(1, 3), 2), 35, 45)
    return Life(START.timestamp(), sorted(plays))


def _skipper(rng: Random, days: int) -> Life:
    """Four times a day half an hour to an hour of plays of 31 to 90 seconds."""
    plays = []
    for day in range(days):
        midnight = START.timestamp() + day * DAY
        for hour in (7, 11, 15, 20):
            start = midnight + (hour + rng.random()) * HOUR
            plays += _session(rng, start, rng.uniform(0.5, 1), 31, 90)
    return Life(START.timestamp(), plays)


def _sleeper(rng: Random, days: int) -> Life:
    """Eight hours of 31 to 60 second sounds every night, quiet evenings."""
    plays = []
    for day in range(days):
        midnight = START.timestamp() + day * DAY
        plays += _quiet_evening(rng, midnight)
        plays += _session(rng, midnight + rng.uniform(22, 23.5) * HOUR, 8, 31, 60)
    return Life(START.timestamp(), sorted(plays))


def _newcomer(rng: Random, days: int) -> Life:
    """Connects with an empty history, begins within three days, listens for hours."""
    first = START.timestamp() + rng.uniform(0.1, 3) * DAY
    plays = []
    for day in range(days - 4):
        plays += _session(rng, first + day * DAY, rng.uniform(1, 5), 60, 240)
    return Life(START.timestamp(), plays)


HARD = {"binger": _binger, "skipper": _skipper, "sleeper": _sleeper, "newcomer": _newcomer}


def read_export(files: Sequence[Path]) -> Life:
    """Reads the life in an account-data export. Raises BadExport.

    `endTime` is UTC to the minute: the plays of a minute are spread over it.
    """
    minutes: dict[float, int] = {}
    for file in files:
        for minute in _minutes(file):
            minutes[minute] = minutes.get(minute, 0) + 1
    if not minutes:
        raise BadExport("The export has no play of 30 seconds or more.")
    plays = [
        minute + 60 * number / count
        for minute, count in sorted(minutes.items())
        for number in range(count)
    ]
    return Life(plays[0], plays)


def _minutes(file: Path) -> Iterator[float]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise TypeError
        for row in rows:
            ended = datetime.strptime(row["endTime"], "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
            if int(row["msPlayed"]) >= COUNTED_MS:
                yield ended.timestamp()
    except OSError as error:
        raise BadExport(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError):
        raise BadExport(
            f"{file} is no StreamingHistory_music_*.json of an account-data export: a list of "
            "plays, each with endTime (2026-01-31 23:59) and msPlayed."
        ) from None
