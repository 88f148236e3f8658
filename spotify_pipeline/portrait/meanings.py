"""What the numbers of a personality mean, in words for the person themselves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spotify_pipeline.domain.personality.definition import METRICS


@dataclass(frozen=True, slots=True)
class Told:
    """A metric as it is shown; `value` is None with a reason in `missing`."""

    metric: str
    name: str
    value: str | None
    meaning: str
    missing: str = ""


# Metric: its name, and what it says.
MEANINGS: dict[str, tuple[str, str]] = {
    "artist_diversity": (
        "Evenness",
        "How evenly your plays are spread over your artists: 100 % is all alike, 0 % is only one.",
    ),
    "effective_artists": (
        "Artists in effect",
        "As many equally played artists would be as varied as what you hear.",
    ),
    "artist_concentration": (
        "Concentration",
        "The chance that two of your plays, drawn blindly, are by the same artist.",
    ),
    "unique_artists": ("Artists", "Different artists you played."),
    "repeat_share": ("Repeats", "Plays of a track you had already played in these weeks."),
    "repeat_rate": ("Tracks played again", "Of your tracks, those you played twice or more."),
    "artist_discovery_rate": (
        "Discovery",
        "Plays of artists you had not heard in the half year before.",
    ),
    "taste_stability": (
        "Stability",
        "How much your top artists of four weeks and of a year are the same people.",
    ),
    "peak_hour": ("Centre of the day", "The time of day around which your plays gather."),
    "time_focus": (
        "Focus",
        "How closely they gather there: 0 % is spread round the clock, 100 % one moment.",
    ),
    "night_share": ("Night", "Plays between midnight and six in the morning."),
    "weekend_share": ("Weekend", "Plays on a Saturday or Sunday; evenly spread it is 29 %."),
    "listening_regularity": ("Regularity", "Days with a play, of those that are known."),
    "longest_streak": (
        "Longest streak",
        "Most days in a row with the same top artist, ever.",
    ),
    "current_streak": ("Streak now", "The run of such days that reaches to today or yesterday."),
    "genre_diversity": (
        "Variety of genres",
        "How evenly the genres of your top artists are spread.",
    ),
    "mainstream_score": (
        "Mainstream",
        "How popular your top artists of half a year are: 100 is what everybody hears.",
    ),
    "newness": ("Newness", "Plays of albums that were at most half a year old."),
}
_STREAKS = {"longest_streak": "longest_streak_artist_id", "current_streak": "streak_artist_id"}


def told(personality: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Told]:
    """Every metric with its value in words or the reason why there is none."""
    for metric in METRICS:
        # An artist of a streak is told with the streak.
        if metric.column.endswith("_id"):
            continue
        name, meaning = MEANINGS.get(metric.column, (metric.column, metric.formula))
        value = personality.get(metric.column)
        if value is None:
            why = personality["reasons"].get(metric.column, "not known")
            yield Told(metric.column, name, None, meaning, why)
            continue
        shown = _shown(metric.column, metric.range, value)
        artist = names.get(personality.get(_STREAKS.get(metric.column, "")) or "")
        yield Told(metric.column, name, f"{shown}, {artist}" if artist else shown, meaning)


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
