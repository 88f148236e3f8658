"""The catalogue, plays and what is known of their completeness, and the days computed from them."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Connection,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, ExcludeConstraint

from spotify_pipeline.storage.tables.base import (
    SCHEMA,
    Instant,
    described,
    metadata,
    one_of,
    optional,
    rule,
    user_column,
    views,
)

artists = Table(
    "artists",
    metadata,
    described(
        "spotify_id",
        Text,
        "Spotify's id of the artist; `name:` and a hash for one that only exports name.",
        primary_key=True,
    ),
    described("name", Text, "Name as Spotify shows it; empty if it never sent one."),
    optional(
        "genres",
        ARRAY(Text),
        "Genre tags; NULL when Spotify did not say (it does not in development mode).",
    ),
    optional("popularity", SmallInteger, "0 to 100; NULL when not said."),
    optional("image_url", Text, "A picture of the artist; NULL when not said."),
    rule("popularity", "popularity BETWEEN 0 AND 100"),
    # Finds the artists of a name that an export gives. Hash: names have no limit of length.
    Index("ix_artists_name", "name", postgresql_using="hash"),
    comment="One row per artist that was ever played or listed, and per artist's name in exports.",
)

tracks = Table(
    "tracks",
    metadata,
    described(
        "spotify_id",
        Text,
        "Spotify's id of the track; `name:` and a hash for one of account data, which has no ids.",
        primary_key=True,
    ),
    described("name", Text, "Title as Spotify shows it; empty if it never sent one."),
    optional(
        "duration_ms",
        Integer,
        "Length in milliseconds; NULL if Spotify never sent one. A play keeps its own.",
    ),
    described("artist_ids", ARRAY(Text), "Ids of its artists; the first is the primary artist."),
    optional("album_id", Text, "Spotify's id of the album."),
    optional("album_name", Text, "Title of the album."),
    optional(
        "release_date", Text, "Release date of the album as sent: YYYY, YYYY-MM or YYYY-MM-DD."
    ),
    optional("popularity", SmallInteger, "0 to 100; NULL when not said."),
    optional(
        "isrc",
        Text,
        "International Standard Recording Code, equal for all ids of a recording; NULL when not "
        "said.",
    ),
    optional(
        "artist_name",
        Text,
        "Name of its artist as exports say, for a track that only exports have shown; NULL once "
        "the API has.",
    ),
    rule("duration_ms", "duration_ms > 0"),
    rule("artist_ids", "cardinality(artist_ids) > 0 AND array_position(artist_ids, NULL) IS NULL"),
    rule("popularity", "popularity BETWEEN 0 AND 100"),
    comment="One row per track that was ever played or listed.",
)

plays = Table(
    "plays",
    metadata,
    user_column(primary_key=True),
    described(
        "played_at",
        Instant,
        "End of the play, to the millisecond; of an export to the second or, in account data, the "
        "minute (more milliseconds distinguish plays of one track).",
        primary_key=True,
    ),
    described(
        "track_id", Text, "The track.", ForeignKey(f"{SCHEMA}.tracks.spotify_id"), primary_key=True
    ),
    described(
        "source", Text, "api: recently played; export: only the user's own data export holds it."
    ),
    optional(
        "ms_played",
        Integer,
        "Milliseconds heard; NULL for an API play that no export holds. An API play with it is "
        "known from both.",
    ),
    optional("context_uri", Text, "Playlist, album or artist it was played from."),
    optional(
        "artist_id",
        Text,
        "The track's primary artist when the play was stored; NULL until it is known.",
    ),
    optional(
        "duration_ms",
        Integer,
        "The track's length in milliseconds when the play was stored; NULL until it is known.",
    ),
    optional(
        "release_date",
        Text,
        "The album's release date, as sent, when the play was stored; NULL until it is known.",
    ),
    one_of("source", ("api", "export")),
    rule("ms_played", "ms_played >= 0"),
    rule("duration_ms", "duration_ms > 0"),
    # API plays that still lack a fact of their track: filled in from the catalogue at the next
    # sync. imported_tracks lists what imported plays lack.
    Index(
        "ix_plays_incomplete",
        "user_id",
        postgresql_where=text(
            "source = 'api' AND (artist_id IS NULL OR duration_ms IS NULL OR release_date IS NULL)"
        ),
    ),
    comment="One row per play that the API lists or an export holds. Facts: never overwritten, "
    "everything else is computed from them.",
)

restamped_plays = Table(
    "restamped_plays",
    metadata,
    user_column(primary_key=True),
    described(
        "shown_at", Instant, "played_at under which Spotify showed the play.", primary_key=True
    ),
    described("shown_track_id", Text, "Track id under which it was shown then.", primary_key=True),
    described("played_at", Instant, "played_at under which the play is stored."),
    described("track_id", Text, "Track id under which the play is stored."),
    described("noticed_at", Instant, "When the page that showed it so was fetched."),
    ForeignKeyConstraint(
        ["user_id", "played_at", "track_id"],
        [f"{SCHEMA}.plays.{name}" for name in ("user_id", "played_at", "track_id")],
        ondelete="CASCADE",
    ),
    Index("ix_restamped_plays_play", "user_id", "played_at", "track_id"),
    comment="One row per other instant under which Spotify showed a stored play: one play is one "
    "play.",
)


# An exclusion over (text, range) usually takes the extension btree_gist, which the owner of a
# hosted database may not be allowed to create. A range type of text needs no extension: one
# user is the range from their id to their id. 50 us a row at 40,000 rows.
@event.listens_for(metadata, "before_create")
def _create_text_range(target: MetaData, connection: Connection, **_: object) -> None:
    connection.execute(
        text(f"""CREATE TYPE {SCHEMA}.text_range AS RANGE (SUBTYPE = text, COLLATION = "C")""")
    )


@event.listens_for(metadata, "after_drop")
def _drop_text_range(target: MetaData, connection: Connection, **_: object) -> None:
    connection.execute(text(f"DROP TYPE {SCHEMA}.text_range"))


coverage = Table(
    "coverage",
    metadata,
    user_column(primary_key=True),
    described(
        "covered_from",
        Instant,
        "Start of the interval: the oldest item of a page, or 7 days before a short or empty one; "
        "the first row of a file.",
        primary_key=True,
    ),
    described("covered_to", Instant, "End of the interval, inclusive."),
    described(
        "basis",
        Text,
        "What shows every play: api (pages of recently played) or export (the files of an import).",
        primary_key=True,
        server_default="api",
    ),
    one_of("basis", ("api", "export")),
    rule("interval", "covered_from <= covered_to"),
    rule("finite", "isfinite(covered_from) AND isfinite(covered_to)"),
    # Closed ends: intervals that touch are one interval. Checked at the end of each statement,
    # so that one statement may replace several covers by their union.
    ExcludeConstraint(
        (text(f"{SCHEMA}.text_range(user_id, user_id, '[]')"), "&&"),
        (text(f"{SCHEMA}.text_range(basis, basis, '[]')"), "&&"),
        (text("tstzrange(covered_from, covered_to, '[]')"), "&&"),
        using="gist",
        deferrable=True,
        initially="IMMEDIATE",
        name="ex_coverage_overlap",
    ),
    comment="One row per interval in which every play is known that the API lists (basis api) or "
    "an export holds (basis export); merged within a basis.",
)

fetch_log = Table(
    "fetch_log",
    metadata,
    described("id", BigInteger, "Number of the page.", Identity(always=True), primary_key=True),
    user_column(),
    described("fetched_at", Instant, "When the page was fetched."),
    described("items", SmallInteger, "Raw items on the page, skipped ones included."),
    described("new_plays", SmallInteger, "Plays on it that were not known before."),
    described(
        "skipped",
        JSONB,
        "Items that are no play: reason -> count.",
        server_default=text("'{}'::jsonb"),
    ),
    optional("oldest_item_at", Instant, "played_at of its oldest raw item."),
    optional("newest_item_at", Instant, "played_at of its newest raw item."),
    described(
        "overlapped",
        Boolean,
        "True when a raw item stood on an earlier page or lay inside coverage, or when what the "
        "page covers touches coverage.",
    ),
    rule("counts", "items >= 0 AND new_plays BETWEEN 0 AND items"),
    rule("skipped", "jsonb_typeof(skipped) = 'object'"),
    rule("item_times", "oldest_item_at <= newest_item_at"),
    Index("ix_fetch_log_user_id_fetched_at", "user_id", "fetched_at"),
    # Retention deletes by age alone.
    Index("ix_fetch_log_fetched_at", "fetched_at"),
    comment="One row per fetched recently-played page; kept for a while.",
)

listening_gaps = Table(
    "listening_gaps",
    metadata,
    described("id", BigInteger, "Number of the gap.", Identity(always=True), primary_key=True),
    user_column(),
    described("gap_start", Instant, "End of the coverage before the page that did not reach it."),
    described("gap_end", Instant, "Where the coverage of that page begins."),
    described("detected_at", Instant, "When that page was fetched."),
    optional("closed_at", Instant, "When the gap was filled; NULL: open."),
    optional("closed_by", Text, "What filled it: page (a later page reached back) or import."),
    one_of("closed_by", ("page", "import")),
    rule("interval", "gap_start < gap_end"),
    rule("closed", "(closed_at IS NULL) = (closed_by IS NULL)"),
    # Noticing the same gap twice is one gap.
    Index(
        "uq_listening_gaps_open",
        "user_id",
        "gap_start",
        unique=True,
        postgresql_where=text("closed_at IS NULL"),
    ),
    Index("ix_listening_gaps_user_id", "user_id", "gap_start"),
    comment="One row per interval in which plays were possibly lost.",
)


listens = Table(
    "listens",
    views,
    described("user_id", Text, "The user."),
    described("played_at", Instant, "End of the play, to the millisecond, UTC."),
    described("local_date", Date, "Date of played_at in the user's zone of today."),
    described("track", Text, "Title of the track."),
    optional("artist", Text, "Name of the primary artist; NULL until it is known."),
    optional("album", Text, "Title of the album; NULL when not said."),
    described(
        "ms_listened",
        BigInteger,
        "Milliseconds heard, as daily_listening.listened_ms sums them: ms_played where it is "
        "known, else the track's length, or the time since the play before if that is shorter.",
    ),
    described("source", Text, "api: recently played; export: the user's own data export."),
    comment="One row per play, with names; select by user_id, which an index serves.",
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
    optional(
        "top_track_id", Text, "Most played track; ties: longest heard, first played, smallest id."
    ),
    optional("top_artist_id", Text, "Most played primary artist; same ties."),
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
    optional(
        "personality_key",
        Text,
        "Fingerprint of the stored personality's inputs, apart from plays and days; "
        "NULL: those have changed since.",
    ),
    optional(
        "months_before",
        Date,
        "music_personality_history is up to date before this month; NULL: nothing of it is.",
    ),
    rule("counts", "plays >= 0 AND days >= 0"),
    comment="One row per user, made with the user: counts of plays and days. Triggers keep them.",
)
