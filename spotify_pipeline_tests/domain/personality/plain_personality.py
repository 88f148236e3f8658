"""Oracle: the music personality of one user by loops and dicts, written from the definition.

It shares no code with the package, so a difference reveals a bug in one of them.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache
from importlib import resources
from itertools import pairwise
from zoneinfo import ZoneInfo

from spotify_pipeline_tests import expected_listening


@cache
def rules(zone: str) -> ZoneInfo:
    """Zones of the tzdata package: the machine's may be outdated (Casablanca's were, by 1 h)."""
    with resources.files("tzdata.zoneinfo").joinpath(*zone.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=zone)


@dataclass
class Listener:
    """All data of a user. `observed`: the dates covered by a fetch or an import."""

    zone: str
    now: datetime
    plays: list[dict] = field(default_factory=list)
    observed: set[date] = field(default_factory=set)
    # time range -> (fetched_at, [(artist id, genres or None, popularity or None)], best first)
    lists: dict[str, tuple[datetime, list[tuple[str, list[str] | None, int | None]]]] = field(
        default_factory=dict
    )

    def clock(self, play: dict) -> datetime:
        return play["played_at"].astimezone(rules(self.zone)).replace(tzinfo=None)

    @property
    def today(self) -> date:
        return self.now.astimezone(rules(self.zone)).date()

    def heard(self, first: date, last: date) -> list[dict]:
        """The plays that count whose local date lies between these."""
        return [
            play
            for play in self.plays
            if (play["source"] == "api" or play["ms_played"] >= 30_000)
            and first <= self.clock(play).date() <= last
        ]

    def list_of(self, time_range: str) -> list[tuple[str, list[str] | None, int | None]] | None:
        """The list, or None if it is older than 35 days."""
        fetched_at, entries = self.lists.get(time_range, (self.now, []))
        return None if self.now - fetched_at > timedelta(days=35) else entries


def plain_personality(listener: Listener) -> dict[str, object]:
    """Every metric, `tags` and `play_count`; None if there is too little data."""
    first, last = listener.today - timedelta(days=27), listener.today
    heard = listener.heard(first, last)
    row: dict[str, object] = {"play_count": len(heard)}
    row |= _artists(heard)
    row |= _repeats(heard)
    row["artist_discovery_rate"] = _discovery(listener, heard, first)
    row |= _clock(listener, heard)
    played = {listener.clock(play).date() for play in heard}
    observed = {day for day in listener.observed if first <= day <= last}
    row["listening_regularity"] = (
        len(played & observed) / len(observed) if len(observed) >= 14 else None
    )
    row["newness"] = _newness(listener, heard)
    row["taste_stability"] = _stability(listener)
    row["genre_diversity"] = _genres(listener)
    row["mainstream_score"] = _mainstream(listener)
    row |= _streaks(listener)
    row["tags"] = _tags(row)
    return row


def _artists(heard: list[dict]) -> dict[str, object]:
    plays_of = Counter(play["artist_id"] for play in heard)
    n = len(heard)
    row: dict[str, object] = {"unique_artists": len(plays_of)}
    if n < 50:
        return row | dict.fromkeys(
            ("artist_diversity", "effective_artists", "artist_concentration")
        )
    shares = [k / n for k in plays_of.values()]
    h = -math.fsum(p * math.log(p) for p in shares)
    return row | {
        "artist_diversity": h / math.log(len(shares)) if len(shares) > 1 else 0.0,
        "effective_artists": math.exp(h),
        "artist_concentration": math.fsum(p * p for p in shares),
    }


def _repeats(heard: list[dict]) -> dict[str, object]:
    if len(heard) < 50:
        return {"repeat_share": None, "repeat_rate": None}
    plays_of = Counter(play["track_id"] for play in heard)
    again = [track for track, k in plays_of.items() if k >= 2]
    return {
        "repeat_share": 1 - len(plays_of) / len(heard),
        "repeat_rate": len(again) / len(plays_of),
    }


def _discovery(listener: Listener, heard: list[dict], first: date) -> float | None:
    since, until = first - timedelta(days=180), first - timedelta(days=1)
    earlier = listener.heard(since, until)
    observed = [day for day in listener.observed if since <= day <= until]
    if len(heard) < 50 or len(observed) < 60 or len(earlier) < 200:
        return None
    known = {play["artist_id"] for play in earlier}
    return sum(play["artist_id"] not in known for play in heard) / len(heard)


def _clock(listener: Listener, heard: list[dict]) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(
        ("peak_hour", "time_focus", "night_share", "weekend_share")
    )
    n, clocks = len(heard), [listener.clock(play) for play in heard]
    days = len({clock.date() for clock in clocks})
    if n < 50 or days < 7:
        return row
    midnights = [clock.replace(hour=0, minute=0, second=0, microsecond=0) for clock in clocks]
    hours = [(a - b) / timedelta(hours=1) for a, b in zip(clocks, midnights, strict=True)]
    c = math.fsum(math.cos(2 * math.pi * h / 24) for h in hours) / n
    s = math.fsum(math.sin(2 * math.pi * h / 24) for h in hours) / n
    r = math.sqrt(c * c + s * s)
    row["time_focus"] = r
    if n * r * r >= 3:
        row["peak_hour"] = math.atan2(s, c) * 24 / (2 * math.pi) % 24
    if days >= 14:
        row["night_share"] = sum(h < 6 for h in hours) / n
        row["weekend_share"] = sum(clock.isoweekday() >= 6 for clock in clocks) / n
    return row


def _newness(listener: Listener, heard: list[dict]) -> float | None:
    ages = []
    for play in heard:
        try:
            released = date(*time.strptime(play["release_date"] or "", "%Y-%m-%d")[:3])
        except ValueError:
            continue
        ages.append((listener.clock(play).date() - released).days)
    return sum(age <= 180 for age in ages) / len(ages) if len(ages) >= 50 else None


def _stability(listener: Listener) -> float | None:
    short, long = listener.list_of("short_term"), listener.list_of("long_term")
    if short is None or long is None:
        return None
    n = min(len(short), len(long), 50)
    if n < 20:
        return None
    a, b = ({entry[0] for entry in listed[:n]} for listed in (short, long))
    return len(a & b) / len(a | b)


def _genres(listener: Listener) -> float | None:
    listed = listener.list_of("medium_term")
    with_genres = [set(genres) for _, genres, _ in listed or [] if genres]
    tags = Counter(tag for genres in with_genres for tag in genres)
    if listed is None or len(with_genres) < 10 or len(tags) < 2:
        return None
    shares = [k / sum(tags.values()) for k in tags.values()]
    return -math.fsum(p * math.log(p) for p in shares) / math.log(len(tags))


def _mainstream(listener: Listener) -> float | None:
    listed = listener.list_of("medium_term") or []
    rated = [(1 - i / len(listed), p) for i, (_, _, p) in enumerate(listed) if p is not None]
    if len(rated) < 20:
        return None
    return math.fsum(w * p for w, p in rated) / math.fsum(w for w, _ in rated)


def _top_artists(listener: Listener) -> dict[date, str]:
    """Per date: most plays, then most listened, then the earliest that day, then the lowest id."""
    of_day: dict[date, dict[str, list[dict]]] = {}
    for play in listener.heard(date.min, date.max):
        by_artist = of_day.setdefault(listener.clock(play).date(), {})
        by_artist.setdefault(play["artist_id"], []).append(play)

    heard = expected_listening.listened_ms(
        (play["played_at"], play["track_id"], play["ms_played"], play["duration_ms"])
        for play in listener.plays
    )

    def rank(item: tuple[str, list[dict]]) -> tuple[object, ...]:
        artist, plays = item
        listened = sum(heard[play["played_at"], play["track_id"]] for play in plays)
        return -len(plays), -listened, min(play["played_at"] for play in plays), artist

    return {day: min(by_artist.items(), key=rank)[0] for day, by_artist in of_day.items()}


def _streaks(listener: Listener) -> dict[str, object]:
    top = _top_artists(listener)
    names = ("longest_streak", "longest_streak_artist_id", "current_streak", "streak_artist_id")
    if len(top) < 2:
        return dict.fromkeys(names)
    days = sorted(top)
    runs = [[days[0]]]
    for before, day in pairwise(days):
        if (day - before).days == 1 and top[day] == top[before]:
            runs[-1].append(day)
        else:
            runs.append([day])
    runs = [run for run in runs if len(run) > 1]
    longest = max(runs, key=len, default=[])
    current = [run for run in runs if run[-1] >= listener.today - timedelta(days=1)]
    latest = current[-1] if current else []
    artists = [top[run[0]] if run else None for run in (longest, latest)]
    values = (len(longest), artists[0], len(latest), artists[1])
    return dict(zip(names, values, strict=True))


def _tags(row: dict) -> list[str]:
    rules = {
        "Explorer": ("artist_discovery_rate", lambda x: x >= 0.25),
        "Loyalist": ("artist_discovery_rate", lambda x: x <= 0.05),
        "Repeat Listener": ("repeat_share", lambda x: x >= 0.55),
        "Discoverer": ("repeat_share", lambda x: x <= 0.25),
        "Deep Diver": ("artist_concentration", lambda x: x >= 0.05),
        "Night Owl": ("night_share", lambda x: x >= 0.35),
        "Mainstream": ("mainstream_score", lambda x: x > 70),
        "Hipster": ("mainstream_score", lambda x: x < 40),
    }
    if row["unique_artists"] < 10:
        return []
    return [
        tag for tag, (name, holds) in rules.items() if row[name] is not None and holds(row[name])
    ]
