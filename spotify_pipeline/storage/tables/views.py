"""Columns of the views, for comments and the data dictionary; definitions are in storage/sql."""

from sqlalchemy import BigInteger, Date, MetaData, Table, Text

from spotify_pipeline.storage.tables.base import SCHEMA, Instant, described

# Apart from the tables: neither created nor migrated as one.
views = MetaData(schema=SCHEMA)

listens = Table(
    "listens",
    views,
    described("user_id", Text, "The user."),
    described("played_at", Instant, "End of the play, to the millisecond, UTC."),
    described("local_date", Date, "Date of played_at in the user's zone of today."),
    described("track", Text, "Title of the track."),
    described("artist", Text, "Name of the primary artist; NULL until it is known.", nullable=True),
    described("album", Text, "Title of the album; NULL when not said.", nullable=True),
    described(
        "ms_listened",
        BigInteger,
        "Milliseconds heard, as daily_listening.listened_ms sums them: ms_played where it is "
        "known, else the track's length, or the time since the play before if that is shorter.",
    ),
    described("source", Text, "api: recently played; export: the user's own data export."),
    comment="One row per play, with names; select by user_id, which an index serves.",
)
