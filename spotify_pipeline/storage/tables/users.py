"""Users, their tokens, time zones and shared profiles, and the tombstones of forgotten users."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Date,
    ForeignKey,
    Identity,
    Index,
    Interval,
    LargeBinary,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from spotify_pipeline.storage.tables.base import (
    SCHEMA,
    Instant,
    described,
    error_code,
    metadata,
    one_of,
    optional,
    rule,
    singleton_column,
    user_column,
)

CONNECTIONS = ("disconnected", "connected", "expiring", "needs_reauth", "suspect")

# The id is the app's or Spotify's, so only this is refused: what Dagster forbids in partition keys
# (three dots, control characters) or breaks a log line (control characters).
USER_ID_RULE = (
    r"char_length(user_id) BETWEEN 1 AND 255"
    r" AND user_id !~ '[\u0001-\u001f\u007f-\u009f]'"
    r" AND strpos(user_id, '...') = 0"
)

# Spotify has some twenty scopes of some twenty characters.
SCOPES_RULE = "cardinality(scopes) <= 100 AND octet_length(array_to_string(scopes, ' ')) <= 4096"

time_zones = Table(
    "time_zones",
    metadata,
    described("name", Text, "IANA name, spelled as in the tz database.", primary_key=True),
    comment=(
        "One row per time zone of the pinned tzdata package; filled by init-db. "
        "Postgres's own list differs, so it is not asked."
    ),
)

day_starts = Table(
    "day_starts",
    metadata,
    described(
        "timezone",
        Text,
        "The zone.",
        ForeignKey(f"{SCHEMA}.time_zones.name", ondelete="CASCADE"),
        primary_key=True,
    ),
    described("since", Date, "First local date of which this is true.", primary_key=True),
    described(
        "begins",
        Interval,
        "When a local day begins, from midnight UTC of its date; negative east of Greenwich.",
    ),
    comment=(
        "One row per time zone and change of when its local days begin, by the pinned tzdata "
        "package; filled by init-db, so that SQL can compute days without Postgres's own zones."
    ),
)

users = Table(
    "users",
    metadata,
    described(
        "user_id",
        Text,
        "The app's or Spotify's id of the user; also the Dagster partition key.",
        primary_key=True,
    ),
    optional(
        "account_id",
        Text,
        "Spotify's immutable account id; NULL until a token was used, or if another user has it.",
        unique=True,
    ),
    optional("display_name", Text, "The name to show; NULL if not known."),
    described(
        "timezone",
        Text,
        "IANA zone of the user's local days.",
        ForeignKey(f"{SCHEMA}.time_zones.name"),
        server_default="UTC",
    ),
    described(
        "connection",
        Text,
        "State of the Spotify connection: disconnected (no token), connected, expiring (the token "
        "dies soon), needs_reauth (Spotify refuses it), suspect (refused while many others were).",
        server_default="disconnected",
    ),
    described(
        "days_stale",
        Boolean,
        "True when every day must be recomputed: another zone, or plays without their days.",
        server_default=text("false"),
    ),
    described("created_at", Instant, "When the user was registered.", server_default=func.now()),
    optional(
        "plays_from",
        Instant,
        "Plays before were deleted by the operator's retention, and local days that begin before "
        "stay as they are; NULL: nothing was.",
    ),
    rule("user_id", USER_ID_RULE),
    rule("display_name", "char_length(display_name) <= 255"),
    one_of("connection", CONNECTIONS),
    comment="One row per user. Deleting it deletes every row of the user.",
)

user_tokens = Table(
    "user_tokens",
    metadata,
    user_column(primary_key=True),
    described("client_id", Text, "The Spotify client id the token was issued to."),
    described(
        "sealed_refresh_token",
        LargeBinary,
        "libsodium sealed box of the refresh token and the user id.",
    ),
    described("key_id", Text, "Which of the operator's keys opens the sealed tokens."),
    described(
        "scopes", ARRAY(Text), "Scopes the user granted.", server_default=text("'{}'::text[]")
    ),
    described("authorized_at", Instant, "When the user authorized the app at Spotify."),
    described(
        "expires_at",
        Instant,
        "When Spotify lets the refresh token die: authorized_at + 6 months. "
        "Left out or outdated by a new authorized_at, a trigger computes it.",
    ),
    optional(
        "last_refreshed_at",
        Instant,
        "Last refresh of the access token, failed or not: see last_error_code.",
    ),
    optional("last_error_code", Text, "Why the last refresh failed; NULL if it succeeded."),
    optional(
        "sealed_access_token",
        LargeBinary,
        "Sealed box of the current access token, so that processes share it; NULL if none.",
    ),
    optional("access_expires_at", Instant, "When the access token expires."),
    error_code("last_error_code"),
    # An app writes these: without limits a few calls fill the memory of every reader.
    rule("client_id", "char_length(client_id) <= 255"),
    rule("key_id", "char_length(key_id) <= 255"),
    rule("sealed_refresh_token", "octet_length(sealed_refresh_token) <= 8192"),
    rule("scopes", SCOPES_RULE),
    rule("access_token", "(sealed_access_token IS NULL) = (access_expires_at IS NULL)"),
    comment="One row per user with a token. No token is readable without the operator's key.",
)

forgotten = Table(
    "forgotten",
    metadata,
    described("id", BigInteger, "Number of the receipt.", Identity(always=True), primary_key=True),
    optional(
        "user_id",
        Text,
        "The forgotten user, as long as Dagster's storage may name them; then NULL.",
    ),
    described(
        "forgotten_at", Instant, "When the user's rows were deleted.", server_default=func.now()
    ),
    optional("scrubbed_at", Instant, "When the last trace was deleted; NULL: not yet."),
    described(
        "traces",
        JSONB,
        "What was deleted from Dagster's storage: kind -> count.",
        server_default=text("'{}'"),
    ),
    rule("scrubbed", "(user_id IS NULL) = (scrubbed_at IS NOT NULL)"),
    comment="One row per forgotten user: a tombstone at first, later a receipt without the id.",
)
Index(
    "ix_forgotten_user_id", forgotten.c.user_id, postgresql_where=forgotten.c.user_id.is_not(None)
)


# Addresses of the web page, and words that a page may need later.
RESERVED_NAMES = (
    *("about", "admin", "api", "app", "auth", "callback", "cookies", "download", "healthz", "help"),
    *("history", "home", "hooks", "imprint", "legal", "login", "logout", "me", "privacy"),
    *("profile", "robots", "settings", "share", "shared", "sign-in", "sign-out", "spotify"),
    *("static", "status", "support", "sync", "terms", "year"),
)
_RESERVED = ", ".join(f"'{name}'" for name in RESERVED_NAMES)

profiles = Table(
    "profiles",
    metadata,
    user_column(primary_key=True),
    optional(
        "name",
        Text,
        "Name in the address of the user's profile page; NULL: none chosen.",
        unique=True,
    ),
    described(
        "is_public",
        Boolean,
        "Whether every visitor sees the profile.",
        server_default=text("false"),
    ),
    optional(
        "share_digest",
        LargeBinary,
        "SHA-256 of the token of the share link; NULL: there is no link.",
        unique=True,
    ),
    optional("share_expires_at", Instant, "When the share link expires."),
    described(
        "session_key",
        Uuid(),
        "Sessions hold this key; another one ends them all.",
        server_default=func.gen_random_uuid(),
    ),
    rule("name", f"name ~ '^[a-z0-9]([a-z0-9-]{{0,38}}[a-z0-9])?$' AND name NOT IN ({_RESERVED})"),
    rule("public", "name IS NOT NULL OR NOT is_public"),
    rule("share", "(share_digest IS NULL) = (share_expires_at IS NULL)"),
    rule("share_digest", "octet_length(share_digest) = 32"),
    comment="One row per user who has signed in to the web page: profile, share link, sessions.",
)

sealing_key = Table(
    "sealing_key",
    metadata,
    singleton_column(),
    described("key_id", Text, "Id of the pipeline's current key."),
    described("public_key", LargeBinary, "Its public half, 32 bytes: apps seal tokens with it."),
    rule("singleton", "singleton"),
    rule("key_id", "char_length(key_id) BETWEEN 1 AND 255"),
    rule("public_key", "octet_length(public_key) = 32"),
    comment="At most one row: the public key of the pipeline, written by every process that has "
    "the private one.",
)
