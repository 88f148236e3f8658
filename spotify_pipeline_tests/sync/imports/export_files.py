"""Exports as files, for tests that import them."""

from collections.abc import Sequence
from datetime import datetime
from itertools import count, islice
from pathlib import Path
from typing import Any

from sqlalchemy import text

from spotify_pipeline import app
from spotify_pipeline.domain.import_receipt import Receipt
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline.sync.import_history import import_history
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline_tests.exports.rows import account, extended, write


def spotify_id(number: int) -> str:
    """A track id as Spotify makes them."""
    return f"{number:022d}"


def extended_row(
    ended_at: datetime, number: int, ms_played: int = 180_000, **changes: object
) -> dict[str, Any]:
    """A row of the extended history: "Song 7" by "Singer 7"."""
    row = {
        "ts": ended_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "ms_played": ms_played,
        "master_metadata_track_name": f"Song {number}",
        "master_metadata_album_artist_name": f"Singer {number}",
        "spotify_track_uri": f"spotify:track:{spotify_id(number)}",
    }
    return extended(**row | changes)


def account_row(ended_at: datetime, number: int, ms_played: int = 180_000) -> dict[str, Any]:
    """The same play in account data."""
    return account(
        endTime=ended_at.strftime("%Y-%m-%d %H:%M"),
        trackName=f"Song {number}",
        artistName=f"Singer {number}",
        msPlayed=ms_played,
    )


def run_import(
    pipeline: Pipeline, folder: Path, *files: Sequence[object], user: str = "ada", **options: Any
) -> Receipt:
    """Writes these files of rows and imports them."""
    paths = [
        write(folder / f"Streaming_History_Audio_{n}.json", *rows) for n, rows in enumerate(files)
    ]
    exports = read_exports(paths, now=pipeline.now(), include_incognito=False)
    return import_history(pipeline, user, exports, **options)


def hand_over(
    pipeline: Pipeline, folder: Path, *files: Sequence[object], user: str = "ada", batch: int = 3
) -> int:
    """Writes these files of rows, and hands them over as an app does; returns the import."""
    paths = [
        write(folder / f"Streaming_History_Audio_{n}.json", *rows) for n, rows in enumerate(files)
    ]
    exports = list(read_exports(paths, now=pipeline.now(), include_incognito=False))
    numbers = count()
    with pipeline.engine.begin() as conn:
        conn.execute(text("SET LOCAL ROLE spotify_app"))
        import_id = app.open_history_import(conn, user)
        for position, file in enumerate(exports):
            rows = file.rows()
            while some := list(islice(rows, batch)):
                app.add_history_rows(conn, import_id, next(numbers), position, some)
        handed = [
            app.HistoryFile(
                file.name, file.source, file.counts, file.first_at, file.last_at, file.malformed
            )
            for file in exports
        ]
        app.close_history_import(conn, import_id, handed)
    return import_id
