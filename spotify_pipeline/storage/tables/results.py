"""Days, top lists and counters. All of it can be computed or fetched again.

The ids of tracks and artists here are no foreign keys: they come from rows that have one or
from the same response, and a foreign key would make thousands of writers lock the catalogue.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Date,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)

from spotify_pipeline.domain.model import TIME_RANGES
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


def _list_key() -> tuple[Column[str], Column[str], Column[int]]:
    return (
        user_column(primary_key=True),
        described(
            "time_range",
            Text,
            "short_term (about 4 weeks), medium_term (6 months), long_term (about 1 year).",
            primary_key=True,
        ),
        described(
            "rank",
            SmallInteger,
            "Position in Spotify's list; 1 is the first.",
            primary_key=True,
            autoincrement=False,
        ),
    )


_FETCHED = "When the list was last received."

user_top_artists = Table(
    "user_top_artists",
    metadata,
    *_list_key(),
    described("spotify_id", Text, "Spotify's id of the artist."),
    described("name", Text, "Name as Spotify shows it."),
    described("genres", ARRAY(Text), "Genre tags; NULL when not said.", nullable=True),
    described("popularity", SmallInteger, "0 to 100; NULL when not said.", nullable=True),
    described("image_url", Text, "A picture of the artist.", nullable=True),
    described("fetched_at", Instant, _FETCHED),
    one_of("time_range", TIME_RANGES),
    rule("rank", "rank BETWEEN 1 AND 50"),
    rule("popularity", "popularity BETWEEN 0 AND 100"),
    comment="One row per user, time range and rank: the top artists now.",
)

user_top_tracks = Table(
    "user_top_tracks",
    metadata,
    *_list_key(),
    described("spotify_id", Text, "Spotify's id of the track."),
    described("name", Text, "Title as Spotify shows it."),
    described("artist_name", Text, "Name of the primary artist."),
    described("album_name", Text, "Title of the album.", nullable=True),
    described("image_url", Text, "The album's cover.", nullable=True),
    described(
        "preview_url", Text, "A 30-second excerpt; Spotify sends none since 2024.", nullable=True
    ),
    described("fetched_at", Instant, _FETCHED),
    one_of("time_range", TIME_RANGES),
    rule("rank", "rank BETWEEN 1 AND 50"),
    comment="One row per user, time range and rank: the top tracks now.",
)


def _history(name: str, thing: str) -> Table:
    user_id, time_range, rank = _list_key()
    return Table(
        name,
        metadata,
        user_id,
        time_range,
        described("valid_from", Instant, "When the list was first received.", primary_key=True),
        described(
            "valid_to",
            Instant,
            "When another list replaced it; NULL: it is the present one.",
            nullable=True,
        ),
        rank,
        described("spotify_id", Text, f"Spotify's id of the {thing}."),
        one_of("time_range", TIME_RANGES),
        rule("rank", "rank BETWEEN 1 AND 50"),
        rule("interval", "valid_from < valid_to"),
        comment=f"One row per line of a top {thing} list as it stood; a list that changed stays.",
    )


top_artists_history = _history("top_artists_history", "artist")
top_tracks_history = _history("top_tracks_history", "track")

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
