"""The definition of the music personality: names, formulas, minimums and thresholds, versioned.

Any change here that can change a stored value must raise VERSION, which every row stores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

VERSION = 1

# The last 28 local days, ending today: whole weeks, so every weekday has the same weight.
WINDOW_DAYS = 28
# The days before the window: an artist not played in them is new.
EARLIER_DAYS = 180
# An older top list says nothing about now.
LIST_MAX_AGE = timedelta(days=35)
LIST_LENGTH = 50

MIN_PLAYS = 50
MIN_EARLIER_OBSERVED_DAYS = 60
MIN_EARLIER_PLAYS = 200
MIN_LISTED_ARTISTS = 20
MIN_DAYS_FOR_HOURS = 7
MIN_RAYLEIGH_Z = 3.0
MIN_DAYS_FOR_SHARES = 14
MIN_OBSERVED_DAYS = 14
MIN_STREAK_DAYS = 2
MIN_ARTISTS_WITH_GENRES = 10
MIN_GENRES = 2
MIN_ARTISTS_WITH_POPULARITY = 20
MIN_ARTISTS_FOR_TAGS = 10

NIGHT_ENDS_AT_HOUR = 6
NEW_RELEASE_DAYS = 180


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of music_personality: range, formula, minimum data and source."""

    column: str
    range: str
    formula: str
    minimum: str
    source: str = ""


METRICS: tuple[Metric, ...] = (
    Metric(
        "artist_diversity",
        "0 to 1",
        "H / ln A with H = -Σ p_a ln p_a over the A artists; 0 for one artist",
        f"{MIN_PLAYS} plays",
        "Shannon evenness (Pielou 1966)",
    ),
    Metric(
        "effective_artists",
        "1 to A",
        "exp(H): as many equally played artists would be as diverse",
        f"{MIN_PLAYS} plays",
        "Hill number of order 1 (Jost 2006)",
    ),
    Metric(
        "artist_concentration",
        "0 to 1",
        "Σ p_a²",
        f"{MIN_PLAYS} plays",
        "Herfindahl index; Poulain & Tarissan 2018",
    ),
    Metric("unique_artists", "count", "A, the distinct primary artists", ""),
    Metric("repeat_share", "0 to 1", "1 - T / N, T distinct tracks", f"{MIN_PLAYS} plays"),
    Metric(
        "repeat_rate",
        "0 to 1",
        "tracks played at least twice / T",
        f"{MIN_PLAYS} plays",
    ),
    Metric(
        "artist_discovery_rate",
        "0 to 1",
        f"plays of artists not heard in the {EARLIER_DAYS} days before the window / N",
        f"{MIN_PLAYS} plays, and before the window {MIN_EARLIER_OBSERVED_DAYS} observed days and "
        f"{MIN_EARLIER_PLAYS} plays",
        "Mok et al., ICWSM 2022",
    ),
    Metric(
        "taste_stability",
        "0 to 1",
        "Jaccard index of the first n artists of the short_term and the long_term list, n the "
        f"shorter length, at most {LIST_LENGTH}",
        f"n of {MIN_LISTED_ARTISTS}",
    ),
    Metric(
        "peak_hour",
        "0 up to 24",
        "circular mean of the local time of the plays, in hours",
        f"{MIN_PLAYS} plays on {MIN_DAYS_FOR_HOURS} days, and Rayleigh's z = N R² of "
        f"{MIN_RAYLEIGH_Z}",
        "circular statistics; Herrera et al. 2010",
    ),
    Metric(
        "time_focus",
        "0 to 1",
        "R = √(C² + S²), C and S the means of cos and sin of the local time on a 24-hour circle",
        f"{MIN_PLAYS} plays on {MIN_DAYS_FOR_HOURS} days",
        "circular statistics; Herrera et al. 2010",
    ),
    Metric(
        "night_share",
        "0 to 1",
        f"plays with a local hour in [0, {NIGHT_ENDS_AT_HOUR}) / N",
        f"{MIN_PLAYS} plays on {MIN_DAYS_FOR_SHARES} days",
        "Louail & Barthelemy 2017",
    ),
    Metric(
        "weekend_share",
        "0 to 1",
        "plays on a local Saturday or Sunday / N",
        f"{MIN_PLAYS} plays on {MIN_DAYS_FOR_SHARES} days",
    ),
    Metric(
        "listening_regularity",
        "0 to 1",
        "observed days of the window with a play / observed days of the window",
        f"{MIN_OBSERVED_DAYS} observed days",
    ),
    Metric(
        "longest_streak",
        "days",
        "longest run of consecutive local dates with the same top artist, ever; one day is none",
        f"{MIN_STREAK_DAYS} days with plays",
    ),
    Metric("longest_streak_artist_id", "id", "the artist of that run", "a streak"),
    Metric(
        "current_streak",
        "days",
        "the run that ends today or yesterday, else 0",
        f"{MIN_STREAK_DAYS} days with plays",
    ),
    Metric("streak_artist_id", "id", "the artist of that run", "a streak"),
    Metric(
        "genre_diversity",
        "0 to 1",
        "entropy of the genre tags of the top medium_term artists / ln of the number of genres",
        f"{MIN_ARTISTS_WITH_GENRES} artists with genres and {MIN_GENRES} genres",
    ),
    Metric(
        "mainstream_score",
        "0 to 100",
        "Σ w_i popularity_i / Σ w_i over the top medium_term artists that have a popularity, "
        "w_i = 1 - i / n, i the place in the list from 0, n its length",
        f"{MIN_ARTISTS_WITH_POPULARITY} artists with popularity",
        "the weighting of Obscurify",
    ),
    Metric(
        "newness",
        "0 to 1",
        f"plays of albums released at most {NEW_RELEASE_DAYS} days before the local date of the "
        "play / plays with a release date known to the day",
        f"{MIN_PLAYS} plays with such a date",
    ),
)

# The metrics of plays and coverage alone. The others need the top lists or streaks of that time.
LISTENING_METRICS: tuple[str, ...] = (
    "artist_diversity",
    "effective_artists",
    "artist_concentration",
    "unique_artists",
    "repeat_share",
    "repeat_rate",
    "artist_discovery_rate",
    "peak_hour",
    "time_focus",
    "night_share",
    "weekend_share",
    "listening_regularity",
    "newness",
)

# Every column of the table except computed_at, which storage sets.
COLUMNS: tuple[str, ...] = (
    "user_id",
    "window_start",
    "window_end",
    "play_count",
    *(metric.column for metric in METRICS),
    "reasons",
    "tags",
    "definition_version",
)


@dataclass(frozen=True, slots=True)
class Tag:
    """A word for a user, given if the metric is known and `holds`."""

    name: str
    metric: str
    holds: Callable[[float], bool]


# Product choices, calibrated on a real year of each of three listeners. Evenness is not used: over
# 46 real windows it was 0.76 to 0.99, so every user would have been an Explorer.
TAGS: tuple[Tag, ...] = (
    Tag("Explorer", "artist_discovery_rate", lambda rate: rate >= 0.25),
    Tag("Loyalist", "artist_discovery_rate", lambda rate: rate <= 0.05),
    Tag("Repeat Listener", "repeat_share", lambda share: share >= 0.55),
    Tag("Discoverer", "repeat_share", lambda share: share <= 0.25),
    Tag("Deep Diver", "artist_concentration", lambda concentration: concentration >= 0.05),
    Tag("Night Owl", "night_share", lambda share: share >= 0.35),
    Tag("Mainstream", "mainstream_score", lambda score: score > 70),
    Tag("Hipster", "mainstream_score", lambda score: score < 40),
)
# The reason when a user has no tags at all.
INSUFFICIENT_DATA = "INSUFFICIENT_DATA"


def is_fresh(fetched_at: datetime, now: datetime) -> bool:
    """Whether a top list fetched then is recent enough to use."""
    return fetched_at >= now - LIST_MAX_AGE


def window(today: date) -> tuple[date, date]:
    """First and last local date of the window."""
    return today - timedelta(days=WINDOW_DAYS - 1), today


def earlier(today: date) -> tuple[date, date]:
    """First and last local date of the period before the window."""
    last = today - timedelta(days=WINDOW_DAYS)
    return last - timedelta(days=EARLIER_DAYS - 1), last
