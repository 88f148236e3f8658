"""The metrics of a music personality as sentences for the user, in the terminal and on the page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spotify_pipeline.domain.personality.definition import METRICS
from spotify_pipeline.terminal import count


@dataclass(frozen=True, slots=True)
class Meaning:
    """A metric as displayed; if `value` is None, `sentence` says why."""

    metric: str
    name: str
    value: str | None
    sentence: str


# Metric: its name and a sentence around its value. `{artists}` is the value as "4 artists". No name
# equals a tag's: "Discoverer" (few repeats) would contradict a low "Discovery".
MEANINGS: dict[str, tuple[str, str]] = {
    "artist_diversity": (
        "Variety",
        "Your plays are spread {value} evenly over your artists; 100 % is equally many for each.",
    ),
    "effective_artists": (
        "Artists in rotation",
        "Your listening is as varied as if you played {artists} equally often.",
    ),
    "artist_concentration": (
        "Same artist again",
        "The chance that two of your plays, picked at random, are by the same artist is {value}.",
    ),
    "unique_artists": ("Artists", "You played {artists}."),
    "repeat_share": (
        "Repeats",
        "{value} of your plays were of a track that you had already played in these weeks.",
    ),
    "repeat_rate": ("Tracks played again", "You played {value} of your tracks twice or more."),
    "artist_discovery_rate": (
        "New artists",
        "{value} of your plays were of artists that you had not played in the half year before.",
    ),
    "taste_stability": (
        "Stability",
        "Of your top artists of four weeks or of a year, {value} are in both lists.",
    ),
    "peak_hour": ("Your time of day", "Your plays centre on {value}."),
    "time_focus": (
        "Routine",
        "From 0 %, around the clock, to 100 %, always the same time of day, you are at {value}.",
    ),
    "night_share": (
        "Night",
        "{value} of your plays were between midnight and six in the morning.",
    ),
    "weekend_share": (
        "Weekend",
        "{value} of your plays were on a Saturday or Sunday; 29 % if every day were alike.",
    ),
    "listening_regularity": ("Regularity", "You listened on {value} of the days that are known."),
    "longest_streak": (
        "Longest streak",
        "Your longest run with the same top artist every day lasted {value}.",
    ),
    "current_streak": (
        "Current streak",
        "Your run with the same top artist every day has lasted {value} up to now.",
    ),
    "genre_diversity": (
        "Variety of genres",
        "Your top artists are spread {value} evenly over their genres.",
    ),
    "mainstream_score": (
        "Popularity",
        "Your top artists of half a year have a popularity of {value} out of 100 on Spotify.",
    ),
    "newness": (
        "New albums",
        "{value} of your plays with a known release date were of albums at most half a year old.",
    ),
}
# Why a day is not known completely; the words are those of incomplete_days in docs/app.md.
INCOMPLETE: dict[str, str] = {
    "today": "so far",
    "before": "before the first sync",
    "recount": "being counted again",
    "gap": "more was played than Spotify keeps",
    "missed": "no sync for a part of it",
    "late": "late plays may still arrive",
}
# Shares that are drawn over time.
OVER_TIME = (
    "artist_discovery_rate",
    "repeat_share",
    "artist_diversity",
    "night_share",
    "weekend_share",
    "listening_regularity",
)
_RANGES = {metric.column: metric.range for metric in METRICS}
_STREAKS = {"longest_streak": "longest_streak_artist_id", "current_streak": "streak_artist_id"}


def meanings(personality: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Meaning]:
    """Every metric with its value and a sentence, or the reason why it is missing."""
    for metric, (name, sentence) in MEANINGS.items():
        value = personality.get(metric)
        if value is None:
            why = personality["reasons"].get(metric)
            yield Meaning(metric, name, None, f"Not known: {why}." if why else "Not known.")
            continue
        text = shown(metric, value)
        artist = names.get(personality.get(_STREAKS.get(metric, "")) or "")
        yield Meaning(
            metric,
            name,
            f"{text}, {artist}" if artist else text,
            sentence.format(value=text, artists=count(round(value), "artist")),
        )


def shown(metric: str, value: float) -> str:
    """A metric's value as displayed."""
    if metric == "peak_hour":
        minutes = round(value * 60) % (24 * 60)
        return f"{minutes // 60}:{minutes % 60:02}"
    range_ = _RANGES[metric]
    if range_ == "0 to 1":
        # A small share must not be displayed as 0 %.
        return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"
    if range_ == "days":
        return count(int(value), "day")
    return f"{value:,.0f}"
