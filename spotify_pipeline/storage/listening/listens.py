"""Reads the view `listens` for exports, in one pass and without holding it in memory."""

from collections.abc import Iterator
from datetime import date
from typing import Any

from sqlalchemy import Connection, text

ROWS = 20_000


def read_listens(
    conn: Connection, user_id: str | None = None, since: date | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Plays in order of their local date, in lists of at most ROWS; columns as in the view."""
    rows = conn.execution_options(yield_per=ROWS).execute(
        text(
            "SELECT * FROM spotify_pipeline.listens"
            " WHERE (CAST(:user_id AS text) IS NULL OR user_id = :user_id)"
            " AND (CAST(:since AS date) IS NULL OR local_date >= :since)"
            " ORDER BY local_date, user_id, played_at, track"
        ),
        {"user_id": user_id, "since": since},
    )
    for part in rows.mappings().partitions():
        yield [dict(row) for row in part]
