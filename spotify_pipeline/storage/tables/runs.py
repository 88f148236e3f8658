"""Runs of the job sync_users: their users and their chunks."""

from sqlalchemy import Double, Index, Integer, Table, Text, func

from spotify_pipeline.storage.tables.base import (
    Instant,
    described,
    error_code,
    metadata,
    one_of,
    rule,
    user_column,
)

OUTCOMES = ("synced", "failed", "skipped", "gone")

sync_run_users = Table(
    "sync_run_users",
    metadata,
    described("run_id", Text, "Dagster run.", primary_key=True),
    user_column(primary_key=True),
    described("chunk", Integer, "Chunk of the run, from 0.", nullable=True),
    described(
        "outcome",
        Text,
        "synced: every step succeeded; failed: one did not; skipped: not tried; gone: forgotten "
        "meanwhile; NULL until known.",
        nullable=True,
    ),
    described("error_code", Text, "Why it failed or was skipped.", nullable=True),
    described("new_plays", Integer, "Plays stored.", nullable=True),
    described("seconds", Double, "How long it took.", nullable=True),
    described(
        "created_at", Instant, "When the user was added to the run.", server_default=func.now()
    ),
    rule("chunk", "chunk >= 0"),
    one_of("outcome", OUTCOMES),
    error_code("error_code"),
    rule("failed", "outcome <> 'failed' OR error_code IS NOT NULL"),
    rule("synced", "outcome <> 'synced' OR error_code IS NULL"),
    rule("figures", "new_plays >= 0 AND seconds >= 0"),
    Index("ix_sync_run_users_run_id_chunk", "run_id", "chunk"),
    # Retention deletes by age; forgetting a user deletes by user.
    Index("ix_sync_run_users_created_at", "created_at"),
    Index("ix_sync_run_users_user_id", "user_id"),
    comment="One row per user in a run of many users, with the outcome.",
)

sync_run_chunks = Table(
    "sync_run_chunks",
    metadata,
    described("run_id", Text, "Dagster run.", primary_key=True),
    described("chunk", Integer, "Number of the chunk, from 0.", primary_key=True),
    described("tries", Integer, "Tries; more than one after a crash."),
    described("started_at", Instant, "When the last try began.", server_default=func.now()),
    described("seconds", Double, "Duration of that try; NULL: it did not end.", nullable=True),
    described("api_calls", Integer, "Calls to Spotify in that try.", nullable=True),
    described(
        "throttled_seconds",
        Double,
        "How long its calls waited for the rate limiter or a block.",
        nullable=True,
    ),
    rule("chunk", "chunk >= 0"),
    rule("tries", "tries >= 1"),
    rule("figures", "seconds >= 0 AND api_calls >= 0 AND throttled_seconds >= 0"),
    # Retention deletes by age.
    Index("ix_sync_run_chunks_started_at", "started_at"),
    comment="One row per chunk of a run of many users: tries and cost.",
)
