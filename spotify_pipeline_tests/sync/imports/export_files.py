"""Exports as files, for tests that import them."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from spotify_pipeline.domain.fates import Receipt
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline.sync.imports import import_history
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
