"""The metrics of a music personality in words, for the user themselves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spotify_pipeline.domain.personality.definition import METRICS


@dataclass(frozen=True, slots=True)
class Meaning:
    """A metric as it is shown; `value` is None with a reason in `missing`."""

    metric: str
    name: str
    value: str | None
    meaning: str
    missing: str = ""


# Metric: its name, and what its value says, for the user themselves.
MEANINGS: dict[str, tuple[str, str]] = {
    "artist_diversity": (
        "Variety",
        "At 100 % you play all your artists equally often, at 0 % only one.",
    ),
    "effective_artists": (
        "Artists in rotation",
        "Your listening is as varied as if you played this many artists equally often.",
    ),
    "artist_concentration": (
        "Same artist again",
        "The chance that two of your plays, picked at random, are by the same artist.",
    ),
    "unique_artists": ("Artists", "You played this many different artists."),
    "repeat_share": ("Repeats", "Plays of a track that you had already played in these weeks."),
    "repeat_rate": (
        "Tracks played again",
        "Of your tracks, those that you played twice or more.",
    ),
    "artist_discovery_rate": (
        "Discovery",
        "Plays of artists that you had not played in the half year before.",
    ),
    "taste_stability": (
        "Stability",
        "How much your top artists of four weeks agree with those of a year.",
    ),
    "peak_hour": ("Your time of day", "Your plays centre on this time of day."),
    "time_focus": (
        "Routine",
        "At 0 % your plays are spread around the clock, at 100 % all at the same time of day.",
    ),
    "night_share": ("Night", "Plays between midnight and six in the morning."),
    "weekend_share": ("Weekend", "Plays on a Saturday or Sunday; 29 % if every day were alike."),
    "listening_regularity": ("Regularity", "The share of the known days on which you listened."),
    "longest_streak": (
        "Longest streak",
        "The most days in a row with the same top artist.",
    ),
    "current_streak": ("Current streak", "Days in a row, up to now, with the same top artist."),
    "genre_diversity": (
        "Variety of genres",
        "At 100 % your top artists cover their genres equally, at 0 % there is only one genre.",
    ),
    "mainstream_score": (
        "Mainstream",
        "How popular your top artists of half a year are on Spotify, from 0 to 100.",
    ),
    "newness": ("Newness", "Plays of albums that were at most half a year old."),
}
_STREAKS = {"longest_streak": "longest_streak_artist_id", "current_streak": "streak_artist_id"}


def meanings(personality: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Meaning]:
    """Every metric with its value in words or the reason why there is none."""
    for metric in METRICS:
        # The artist of a streak is part of the streak's value.
        if metric.column.endswith("_id"):
            continue
        name, meaning = MEANINGS.get(metric.column, (metric.column, metric.formula))
        value = personality.get(metric.column)
        if value is None:
            why = personality["reasons"].get(metric.column, "not known")
            yield Meaning(metric.column, name, None, meaning, why)
            continue
        shown = _shown(metric.column, metric.range, value)
        artist = names.get(personality.get(_STREAKS.get(metric.column, "")) or "")
        yield Meaning(metric.column, name, f"{shown}, {artist}" if artist else shown, meaning)


def _shown(metric: str, range_: str, value: float) -> str:
    if metric == "peak_hour":
        minutes = round(value * 60) % (24 * 60)
        return f"{minutes // 60}:{minutes % 60:02}"
    if range_ == "0 to 1":
        # A small share must not read as none.
        return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"
    if range_ == "days":
        return f"{value:,} day{'s' * (value != 1)}"
    return f"{value:,.0f}"
