"""The chunks of a run over many users, with what they cost."""

from sqlalchemy import Float, Index, Integer, Table, Text, func

from spotify_pipeline.storage.tables.base import Instant, described, metadata, rule

sync_run_chunks = Table(
    "sync_run_chunks",
    metadata,
    described("run_id", Text, "Dagster run.", primary_key=True),
    described("chunk", Integer, "Number of the chunk, from 0.", primary_key=True),
    described("tries", Integer, "How often a process began it: more than once after a crash."),
    described("started_at", Instant, "When the last try began.", server_default=func.now()),
    described("seconds", Float(53), "How long that try took; NULL: it did not end.", nullable=True),
    described("api_calls", Integer, "Calls to Spotify of that try.", nullable=True),
    described(
        "throttled_seconds",
        Float(53),
        "How long its calls were held back by the budget or a block.",
        nullable=True,
    ),
    rule("chunk", "chunk >= 0"),
    rule("tries", "tries >= 1"),
    rule("figures", "seconds >= 0 AND api_calls >= 0 AND throttled_seconds >= 0"),
    # Retention deletes by age.
    Index("ix_sync_run_chunks_started_at", "started_at"),
    comment="One row per chunk of a run over many users: how often it was tried, what it cost.",
)
