"""Kinds of listeners, and the listeners that a simulator starts with.

The figures of `heavy` follow one real listener's year of 23,636 plays.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from spotify_pipeline.simulator.music.seeds import invented_word, seeded

# Weight of a session's start per local hour, from midnight.
_FLAT = (6, 5, 4, 3, 2, 5, 6, 7, 9, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 10, 10, 9, 8)
_EVENING = (3, 1, 0, 0, 0, 0, 1, 3, 4, 3, 3, 3, 4, 3, 3, 4, 6, 8, 10, 12, 14, 14, 11, 7)
_COMMUTE = (0, 0, 0, 0, 0, 1, 8, 16, 12, 3, 2, 2, 3, 2, 2, 3, 8, 15, 12, 5, 4, 3, 1, 0)
_NIGHT = (16, 15, 12, 9, 5, 2, 1, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 7, 9, 12, 14)


@dataclass(frozen=True, slots=True)
class ListenerKind:
    """How a listener listens. Shares are of plays, sessions are per day that is not quiet."""

    name: str
    sessions: float
    session_median: float
    session_sigma: float = 1.13
    hours: tuple[int, ...] = _FLAT
    weekdays: tuple[float, ...] = (1.0, 1.05, 1.0, 1.1, 1.15, 0.95, 0.8)  # Monday first
    day_sigma: float = 0.2
    quiet_day: float = 0.01
    silent_week: float = 0.0
    day_starts: int = 5  # the local hour in which this listener sleeps
    zipf: float = 1.06  # Zipf exponent of the artists' long tail: steeper is more loyal
    artists: int = 5000
    album_run: float = 0.013
    same_artist: float = 0.1
    repeat: float = 0.016
    phase: float = 0.08  # share of plays by the artists of the month
    skip: float = 0.22


HEAVY = ListenerKind("heavy", sessions=5.7, session_median=6.3)
LISTENER_KINDS: dict[str, ListenerKind] = {
    kind.name: kind
    for kind in (
        HEAVY,
        ListenerKind(
            "night_owl", 4.0, 7.0, hours=_NIGHT, day_starts=12, weekdays=(1, 1, 1, 1, 1.2, 1.3, 1)
        ),
        ListenerKind(
            "commuter", 2.6, 7.0, 0.6, _COMMUTE, (1.2, 1.2, 1.2, 1.2, 1.1, 0.4, 0.3), quiet_day=0.08
        ),
        replace(
            HEAVY, name="loyalist", sessions=4.0, hours=_EVENING, zipf=1.45, phase=0.02, repeat=0.09
        ),
        ListenerKind(
            "explorer", 4.0, 6.0, hours=_EVENING, zipf=0.8, artists=8000, phase=0.25, repeat=0.005
        ),
        ListenerKind("light", 1.2, 4.0, 0.9, _EVENING, quiet_day=0.35, silent_week=0.4),
    )
}

# (user_id, display name, IANA zone, kind): the first listeners of every simulator.
_NAMED = (
    ("mira", "Mira Solberg", "Europe/Oslo", "heavy"),
    ("kenji", "Kenji A.", "Asia/Tokyo", "night_owl"),
    ("ayo", "Ayọ̀", "Africa/Lagos", "commuter"),
    ("lucia", "Lucía Ferrán", "America/Argentina/Buenos_Aires", "explorer"),
    ("noor", "Noor", "Asia/Kolkata", "loyalist"),
    ("walt", "walt 🎧", "America/New_York", "light"),
)
_ZONES = (
    "Europe/Berlin",
    "Europe/London",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "America/St_Johns",
    "Africa/Cairo",
    "Asia/Shanghai",
    "UTC",
)


@dataclass(frozen=True, slots=True)
class NewListener:
    """A listener to create: identity, time zone and kind."""

    user_id: str
    display_name: str
    timezone: str
    kind: str  # a key of LISTENER_KINDS


def first_listeners(count: int, seed: int) -> Iterator[NewListener]:
    """The first `count` listeners of a simulator: named ones, then invented ones."""
    for named in _NAMED[:count]:
        yield NewListener(*named)
    kinds = tuple(LISTENER_KINDS)
    for number in range(len(_NAMED) + 1, count + 1):
        rng = seeded(seed, "cast", number)
        yield NewListener(
            f"listener-{number:05d}",
            f"{invented_word(rng)} {invented_word(rng)}",
            rng.choice(_ZONES),
            kinds[number % len(kinds)],
        )
