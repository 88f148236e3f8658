"""Who asked to be forgotten, until no trace of them is left; then only that it was done."""

from sqlalchemy import BigInteger, Identity, Index, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB

from spotify_pipeline.storage.tables.base import Instant, described, metadata, rule

forgotten = Table(
    "forgotten",
    metadata,
    described("id", BigInteger, "Number of the receipt.", Identity(always=True), primary_key=True),
    described(
        "user_id",
        Text,
        "Who was forgotten, as long as Dagster's storage may name them; then NULL.",
        nullable=True,
    ),
    described(
        "forgotten_at",
        Instant,
        "When their rows were deleted.",
        server_default=func.now(),
    ),
    described(
        "scrubbed_at", Instant, "When the last trace was gone; NULL: not yet.", nullable=True
    ),
    described(
        "traces",
        JSONB,
        "What was deleted from Dagster's storage: kind -> count.",
        server_default=text("'{}'"),
    ),
    rule("scrubbed", "(user_id IS NULL) = (scrubbed_at IS NOT NULL)"),
    comment="One row per forgotten person: a tombstone at first, a receipt without a name later.",
)
Index(
    "ix_forgotten_user_id",
    forgotten.c.user_id,
    postgresql_where=forgotten.c.user_id.is_not(None),
)
