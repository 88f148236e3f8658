"""What is counted once, as it is written, instead of at every sync of a long history."""

from sqlalchemy import BigInteger, Date, Integer, Table, Text, text

from spotify_pipeline.storage.tables.base import described, metadata, rule, user_column

listening_tallies = Table(
    "listening_tallies",
    metadata,
    user_column(primary_key=True),
    described("plays", BigInteger, "Stored plays.", server_default=text("0")),
    described("days", Integer, "Stored days.", server_default=text("0")),
    described(
        "personality_key",
        Text,
        "What the stored personality was computed from, apart from plays and days; "
        "NULL: those have changed since.",
        nullable=True,
    ),
    described(
        "streaks_before",
        Date,
        "The days before this date, on which a run begins, are summed up in the next columns; "
        "NULL: none are.",
        nullable=True,
    ),
    described("streak_days", Integer, "Days with a top artist.", server_default=text("0")),
    described("longest_streak", Integer, "Longest run in days.", server_default=text("0")),
    described("longest_streak_artist_id", Text, "The artist of that run.", nullable=True),
    rule("counts", "plays >= 0 AND days >= 0 AND streak_days >= 0 AND longest_streak >= 0"),
    rule("longest", "(longest_streak = 0) = (longest_streak_artist_id IS NULL)"),
    comment="One row per person, made with them: what plays and days add up to. Triggers count.",
)
