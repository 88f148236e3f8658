"""Profiles and sessions of the web page, and the public key with which apps seal tokens."""

from sqlalchemy import Boolean, LargeBinary, Table, Text, Uuid, func, text

from spotify_pipeline.storage.tables.base import (
    Instant,
    described,
    metadata,
    rule,
    singleton_column,
    user_column,
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
    described(
        "name",
        Text,
        "Name in the address of the user's profile page; NULL: none chosen.",
        nullable=True,
        unique=True,
    ),
    described(
        "is_public",
        Boolean,
        "Whether every visitor sees the profile.",
        server_default=text("false"),
    ),
    described(
        "share_digest",
        LargeBinary,
        "SHA-256 of the token of the share link; NULL: there is no link.",
        nullable=True,
        unique=True,
    ),
    described("share_expires_at", Instant, "When the share link expires.", nullable=True),
    described(
        "session_key",
        Uuid(),
        "Sessions hold this key; another one ends them all.",
        server_default=func.gen_random_uuid(),
    ),
    rule(
        "name",
        f"name ~ '^[a-z0-9]([a-z0-9-]{{0,38}}[a-z0-9])?$' AND name NOT IN ({_RESERVED})",
    ),
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
