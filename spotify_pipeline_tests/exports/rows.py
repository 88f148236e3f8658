"""Rows as Spotify writes them, and short ways to read them."""

import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spotify_pipeline.exports.reader import ExportFile, ExportRow, read_exports

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TRACK_ID = "4uLU6hMCjMI75M1A2tKUQC"


def extended(**changes: object) -> dict[str, Any]:
    """A row of the extended export of 2024; a change to `...` removes the field."""
    row = {
        "ts": "2024-03-01T12:34:56Z",
        "platform": "secret-platform",
        "ms_played": 213_000,
        "conn_country": "ZZ",
        "ip_addr": "203.0.113.77",
        "master_metadata_track_name": "Song",
        "master_metadata_album_artist_name": "Artist",
        "master_metadata_album_album_name": "Album",
        "spotify_track_uri": f"spotify:track:{TRACK_ID}",
        "episode_name": None,
        "episode_show_name": None,
        "spotify_episode_uri": None,
        "audiobook_title": None,
        "audiobook_uri": None,
        "audiobook_chapter_uri": None,
        "audiobook_chapter_title": None,
        "reason_start": "trackdone",
        "reason_end": "",
        "shuffle": False,
        "skipped": None,
        "offline": False,
        "offline_timestamp": None,
        "incognito_mode": None,
    }
    return {name: value for name, value in (row | changes).items() if value is not ...}


def account(**changes: object) -> dict[str, Any]:
    """A row of the account data; a change to `...` removes the field."""
    row = {
        "endTime": "2024-03-01 12:34",
        "artistName": "Artist",
        "trackName": "Song",
        "msPlayed": 213_000,
    }
    return {name: value for name, value in (row | changes).items() if value is not ...}


def write(path: Path, *rows: object) -> Path:
    """Writes a JSON file of these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_zip(path: Path, files: Mapping[str, bytes | str | list[Any]]) -> Path:
    """Writes a zip; a list becomes JSON."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, json.dumps(content) if isinstance(content, list) else content)
    return path


def read(*paths: Path, include_incognito: bool = False) -> tuple[list[ExportFile], list[ExportRow]]:
    """All files and all plays of an export."""
    files = list(read_exports(paths, now=NOW, include_incognito=include_incognito))
    return files, [row for file in files for row in file.rows()]
