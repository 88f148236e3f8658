"""Days and counters. All of it can be computed or fetched again.

The ids of tracks and artists here are no foreign keys: they come from rows that have one or
from the same response, and a foreign key would make thousands of writers lock the catalogue.
"""

from sqlalchemy import (
    BigInteger,
    Date,
    Index,
    Integer,
    Table,
    Text,
    func,
    text,
)

from spotify_pipeline.storage.tables.base import (
    Instant,
    described,
    metadata,
    one_of,
    rule,
    user_column,
)

COMPLETENESS = ("complete", "at_least", "unknown")

daily_listening = Table(
    "daily_listening",
    metadata,
    user_column(primary_key=True),
    described("date", Date, "Local date in the user's zone.", primary_key=True),
    described("minutes", Integer, "listened_ms in minutes, half up."),
    described(
        "listened_ms",
        BigInteger,
        "Milliseconds heard: ms_played; where it is not known, the track's length, or the time "
        "since the play before if that is shorter and at least 30 s.",
    ),
    described("plays", Integer, "API plays, and imported ones of 30 s or more."),
    described("unique_tracks", Integer, "Distinct tracks among them."),
    described("unique_artists", Integer, "Distinct primary artists among them."),
    described(
        "top_track_id",
        Text,
        "Most played track; ties: longest heard, first played, smallest id.",
        nullable=True,
    ),
    described("top_artist_id", Text, "Most played primary artist; same ties.", nullable=True),
    described(
        "completeness",
        Text,
        "complete: every play of the day that the API lists, or an export holds, is known (see "
        "basis); at_least: there may be more; unknown.",
        server_default="unknown",
    ),
    described(
        "computed_at",
        Instant,
        "When another column of the row last changed.",
        server_default=func.now(),
    ),
    described(
        "basis",
        Text,
        "What knows the day's plays: api, export, or both. They do not list the same plays: the "
        "API leaves out some, an export has every skip.",
        server_default="api",
    ),
    rule(
        "counts",
        "minutes >= 0 AND listened_ms >= 0 AND plays >= 0"
        " AND unique_tracks >= 0 AND unique_artists >= 0",
    ),
    one_of("basis", ("api", "export", "both")),
    one_of("completeness", COMPLETENESS),
    # Finds the few days that may still become complete.
    Index(
        "ix_daily_listening_unsettled",
        "user_id",
        "completeness",
        "date",
        postgresql_where=text("completeness <> 'complete'"),
    ),
    comment="One row per user and local day with a play.",
)


listening_tallies = Table(
    "listening_tallies",
    metadata,
    user_column(primary_key=True),
    described("plays", BigInteger, "Stored plays.", server_default=text("0")),
    described("days", Integer, "Stored days.", server_default=text("0")),
    described(
        "personality_key",
        Text,
        "Fingerprint of the stored personality's inputs, apart from plays and days; "
        "NULL: those have changed since.",
        nullable=True,
    ),
    described(
        "streaks_before",
        Date,
        "The next columns summarize the days before this date, on which a run begins; "
        "NULL: no summary.",
        nullable=True,
    ),
    described("streak_days", Integer, "Days with a top artist.", server_default=text("0")),
    described("longest_streak", Integer, "Longest run in days.", server_default=text("0")),
    described("longest_streak_artist_id", Text, "The artist of that run.", nullable=True),
    described(
        "months_before",
        Date,
        "music_personality_history is up to date before this month; NULL: nothing of it is.",
        nullable=True,
    ),
    rule("counts", "plays >= 0 AND days >= 0 AND streak_days >= 0 AND longest_streak >= 0"),
    rule("longest", "(longest_streak = 0) = (longest_streak_artist_id IS NULL)"),
    comment="One row per user, made with the user: counts of plays and days. Triggers keep them.",
)
