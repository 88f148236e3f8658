"""The music personality, now and per month: metrics, each NULL with a reason when unknown."""

from typing import Any

from sqlalchemy import ARRAY, Column, Date, Double, Integer, SmallInteger, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB

from spotify_pipeline.domain.personality.definition import LISTENING_METRICS
from spotify_pipeline.storage.tables.base import (
    Instant,
    described,
    metadata,
    optional,
    rule,
    user_column,
)


def _share(name: str, comment: str) -> Column[float]:
    return optional(name, Double, f"{comment} 0 to 1.")


def _count(name: str, comment: str) -> Column[int]:
    return optional(name, Integer, comment)


_SHARES = (
    _share("artist_diversity", "Shannon evenness of plays over artists."),
    _share("artist_concentration", "Sum of squared artist shares (Herfindahl)."),
    _share("repeat_share", "1 - distinct tracks / plays."),
    _share("repeat_rate", "Tracks played at least twice / distinct tracks."),
    _share("artist_discovery_rate", "Plays of artists not heard in the 180 days before."),
    _share("taste_stability", "Jaccard of the short-term and long-term top artists."),
    _share("time_focus", "Length R of the mean vector of play times on the 24-hour circle."),
    _share("night_share", "Plays with a local hour in [0, 6)."),
    _share("weekend_share", "Plays on a local Saturday or Sunday."),
    _share("listening_regularity", "Days with a play / observed days."),
    _share("genre_diversity", "Entropy of genre tags / ln of the number of genres."),
    _share("newness", "Plays of albums released at most 180 days before."),
)

music_personality = Table(
    "music_personality",
    metadata,
    user_column(primary_key=True),
    described("window_start", Date, "First local date of the 28-day window."),
    described("window_end", Date, "Last local date of the window."),
    described("play_count", Integer, "Plays in the window (API, or imported of 30 s or more)."),
    *_SHARES,
    optional(
        "effective_artists",
        Double,
        "exp of the Shannon entropy over artists (Hill number q = 1): from 1 to unique_artists.",
    ),
    _count("unique_artists", "Distinct primary artists in the window."),
    optional("peak_hour", Double, "Circular mean of local play time, in hours from 0 up to 24."),
    _count("longest_streak", "Longest run of local days with the same top artist, ever; in days."),
    optional("longest_streak_artist_id", Text, "That artist."),
    _count("current_streak", "The run that ends today or yesterday, in days."),
    optional("streak_artist_id", Text, "The artist of the current streak."),
    optional(
        "mainstream_score",
        Double,
        "Rank-weighted popularity of the medium-term top artists, 0 to 100.",
    ),
    described(
        "reasons",
        JSONB,
        "Why a metric is NULL: metric -> reason.",
        server_default=text("'{}'::jsonb"),
    ),
    described(
        "tags", ARRAY(Text), "Labels derived from the metrics.", server_default=text("'{}'::text[]")
    ),
    described("definition_version", SmallInteger, "Version of the formulas and thresholds."),
    described(
        "computed_at",
        Instant,
        "When another column of the row last changed.",
        server_default=func.now(),
    ),
    rule("window", "window_start <= window_end"),
    rule("counts", "play_count >= 0 AND unique_artists >= 0"),
    rule("streaks", "longest_streak >= 0 AND current_streak >= 0"),
    rule("effective_artists", "effective_artists >= 1 AND effective_artists < 'Infinity'"),
    rule("peak_hour", "peak_hour >= 0 AND peak_hour < 24"),
    rule("mainstream_score", "mainstream_score BETWEEN 0 AND 100"),
    rule("reasons", "jsonb_typeof(reasons) = 'object'"),
    *(rule(column.name, f"{column.name} BETWEEN 0 AND 1") for column in _SHARES),
    comment="One row per user: metrics of their listening over the last 28 local days.",
)


def _the_same(name: str) -> Column[Any]:
    column = music_personality.c[name]
    return Column(name, column.type, nullable=column.nullable, comment=column.comment)


_OF_PLAYS = [column.name for column in _SHARES if column.name in LISTENING_METRICS]

music_personality_history = Table(
    "music_personality_history",
    metadata,
    user_column(primary_key=True),
    described(
        "month",
        Date,
        "First day of a month that is over in the user's zone; the window is its last 28 days.",
        primary_key=True,
    ),
    *map(_the_same, ("window_start", "window_end", "play_count", *LISTENING_METRICS)),
    *map(_the_same, ("reasons", "definition_version", "computed_at")),
    rule("month", "extract(day FROM month) = 1"),
    rule("window", "window_start BETWEEN month AND window_end"),
    rule("counts", "play_count >= 0 AND unique_artists >= 0"),
    rule("effective_artists", "effective_artists >= 1 AND effective_artists < 'Infinity'"),
    rule("peak_hour", "peak_hour >= 0 AND peak_hour < 24"),
    rule("reasons", "jsonb_typeof(reasons) = 'object'"),
    *(rule(name, f"{name} BETWEEN 0 AND 1") for name in _OF_PLAYS),
    comment="One row per user and month: the metrics of music_personality that rest on plays "
    "alone, computed when the month is over, and again when plays of it or before it are new.",
)
