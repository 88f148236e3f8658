"""Imports of users' own exports: the receipts, and the imported rows as facts.

`plays` is computed from `imported_plays` and the API plays, so it does not depend on which came
first.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from spotify_pipeline.domain.import_receipt import FATES
from spotify_pipeline.storage.tables.base import (
    SCHEMA,
    Instant,
    described,
    metadata,
    one_of,
    optional,
    rule,
    user_column,
)

_SUM = " + ".join(FATES)
SOURCES = ("extended", "account")


def _receipt() -> Iterator[Column[Any]]:
    yield described("rows_read", Integer, "Rows read.", server_default=text("0"))
    for fate, meaning in FATES.items():
        yield described(fate, Integer, f"Rows of them: {meaning}.", server_default=text("0"))
    yield optional("first_at", Instant, "End of the earliest row; NULL: none.")
    yield optional("last_at", Instant, "End of the latest row; NULL: none.")


history_imports = Table(
    "history_imports",
    metadata,
    described("id", BigInteger, "Number of the import.", Identity(always=True), primary_key=True),
    user_column(),
    described(
        "requested_by",
        Text,
        "Login of the database that asked for it.",
        server_default=text("SESSION_USER"),
    ),
    described(
        "status",
        Text,
        "open: rows are handed over; closed: it waits for the pipeline; succeeded; failed.",
    ),
    described("started_at", Instant, "When it began.", server_default=func.now()),
    optional("finished_at", Instant, "When it succeeded or failed."),
    *_receipt(),
    optional(
        "files",
        JSONB,
        "While it is closed: name, kind, span and counts of each file, as the app says.",
    ),
    described(
        "attempts", Integer, "Runs that could not import a closed upload.", server_default=text("0")
    ),
    optional("error_message", Text, "Why it failed, and what to do; NULL: it did not."),
    optional("closed_at", Instant, "Since when it waits for the pipeline."),
    one_of("status", ("open", "closed", "succeeded", "failed")),
    rule("finished", "(finished_at IS NULL) = (status IN ('open', 'closed'))"),
    rule("fates", f"status <> 'succeeded' OR rows_read = {_SUM}"),
    rule("files", "num_nonnulls(files, closed_at) = CASE status WHEN 'closed' THEN 2 ELSE 0 END"),
    rule("error", "(error_message IS NOT NULL) = (status = 'failed')"),
    Index("ix_history_imports_user_id", "user_id"),
    Index(
        "uq_history_imports_unfinished",
        "user_id",
        unique=True,
        postgresql_where=text("status IN ('open', 'closed')"),
    ),
    comment="One row per import of a user's own listening history, with what became of its rows.",
)

history_import_batches = Table(
    "history_import_batches",
    metadata,
    described(
        "import_id",
        BigInteger,
        "The import; its batches are deleted when it is finished.",
        ForeignKey(f"{SCHEMA}.history_imports.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    described(
        "number",
        Integer,
        "Number that the app gave the batch; the same again replaces it.",
        primary_key=True,
        autoincrement=False,
    ),
    described("file", Integer, "Position of the rows' file in the import, from 0."),
    described("source", Text, "extended streaming history, or account data."),
    described("row_count", Integer, "Rows of the batch."),
    described("octets", Integer, "Length of the rows as the app sent them, in bytes."),
    described("first_at", Instant, "End of the earliest row."),
    described("last_at", Instant, "End of the latest row."),
    described(
        "content",
        JSONB,
        "The rows, each an array: end (RFC 3339, UTC), milliseconds heard, track id or null, names "
        "of track and artist, name of the album or null, start of an offline play or null.",
    ),
    one_of("source", SOURCES),
    rule("counts", "number >= 0 AND file >= 0 AND row_count > 0 AND octets > 0"),
    comment="One row per batch of rows that an app hands over, until their import is finished.",
)

history_import_files = Table(
    "history_import_files",
    metadata,
    described(
        "import_id",
        BigInteger,
        "The import.",
        ForeignKey(f"{SCHEMA}.history_imports.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    described(
        "number", Integer, "Position in the import, from 0.", primary_key=True, autoincrement=False
    ),
    user_column(),
    described("name", Text, "Name of the file, with that of its archive."),
    described("source", Text, "extended streaming history, or account data."),
    *_receipt(),
    described(
        "malformed_rows",
        JSONB,
        "Index and reason of the first hundred malformed rows.",
        server_default=text("'[]'"),
    ),
    one_of("source", SOURCES),
    rule("fates", f"rows_read = {_SUM}"),
    Index("ix_history_import_files_user_id", "user_id"),
    comment="One row per file of an import that succeeded: a receipt whose fates sum up to its "
    "rows.",
)

imported_plays = Table(
    "imported_plays",
    metadata,
    user_column(primary_key=True),
    described(
        "ended_at",
        Instant,
        "End of the play, UTC, to the second; in account data the minute.",
        primary_key=True,
    ),
    # No foreign key: that of plays guards the same ids, and a check of a million rows takes 5 s.
    described("track_id", Text, "The track.", primary_key=True),
    described("ms_played", Integer, "Milliseconds heard.", primary_key=True, autoincrement=False),
    described("source", Text, "extended streaming history, or account data.", primary_key=True),
    optional(
        "offline_started_at",
        Instant,
        "When a play without a connection began; NULL for others. Such a play may have been "
        "uploaded, and so have its ended_at, hours or days later.",
    ),
    one_of("source", SOURCES),
    rule("ms_played", "ms_played > 0"),
    comment="One row per row of a user's exports that is a play. Facts: plays are computed from "
    "them and from what the API lists.",
)

imported_tracks = Table(
    "imported_tracks",
    metadata,
    user_column(primary_key=True),
    described(
        "track_id", Text, "The track.", ForeignKey(f"{SCHEMA}.tracks.spotify_id"), primary_key=True
    ),
    described("artist_id", Text, "The artist that the user's imported plays of the track have."),
    comment="One row per user and track of imported plays that lacks a fact the API may still "
    "show: its primary artist's id, its length or release date.",
)
