"""Writes a user's plays in formats that other programs import, so that they can leave with them.

Both are zips, written as a stream: the plays are never all in memory.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import groupby, islice
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

from spotify_pipeline.domain.listening.exported import NAMED
from spotify_pipeline.domain.model import COUNTED_FROM_MS, HeardPlay

# As Spotify cuts its own: about 12 MB.
_ROWS_PER_FILE = 16_000


def write_spotify(
    file: IO[bytes], extended: Iterable[HeardPlay], account: Iterable[HeardPlay] = ()
) -> int:
    """Writes histories as Spotify hands them out; returns the number of rows.

    `extended` and `account` are in the order of the end. `ts` is the second in which a play ended,
    so that its local day stays. What is not stored (platform, country, ip address ...) is null. A
    play without a known length has 30 s, because Spotify's own history counts plays from there.
    Account data is what only its minute and names are known of.
    """
    folder = "Spotify Extended Streaming History"
    rows = 0
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for year, of_year in groupby(extended, lambda play: play.played_at.year):
            name = f"{folder}/Streaming_History_Audio_{year}"
            rows += _write_parts(archive, name, map(_extended, of_year))
        name = "Spotify Account Data/StreamingHistory_music"
        rows += _write_parts(archive, name, map(_account, account))
        if not rows:
            archive.writestr(f"{folder}/Streaming_History_Audio_0.json", "[]")
    return rows


def _write_parts(archive: ZipFile, name: str, rows: Iterator[dict[str, Any]]) -> int:
    """Files of at most 16,000 rows each; returns the number of rows."""
    number = total = 0
    while part := list(islice(rows, _ROWS_PER_FILE)):
        _write_part(archive, f"{name}_{number}.json", "[", ",\n", "]", part)
        total += len(part)
        number += 1
    return total


def write_listenbrainz(file: IO[bytes], plays: Iterable[HeardPlay]) -> int:
    """Writes listens as ListenBrainz hands them out, JSON lines per month; returns their number.

    Only plays that count: those that the API lists, and others of 30 s or more.
    """
    counted = (play for play in plays if play.counted and play.track_name and play.artist_name)
    rows = 0

    def lines(of_month: Iterable[HeardPlay]) -> Iterable[dict[str, Any]]:
        nonlocal rows
        for play in of_month:
            rows += 1
            yield _listen(play)

    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        months = groupby(counted, lambda play: (play.played_at.year, play.played_at.month))
        for (year, month), of_month in months:
            name = f"listens/{year}/{month}.jsonl"
            _write_part(archive, name, "", "\n", "\n", lines(of_month))
    return rows


def _write_part(
    archive: ZipFile,
    name: str,
    before: str,
    between: str,
    after: str,
    values: Iterable[dict[str, Any]],
) -> None:
    with archive.open(name, "w", force_zip64=True) as member:
        separator = before
        for value in values:
            member.write((separator + json.dumps(value, ensure_ascii=False)).encode())
            separator = between
        member.write(after.encode())


def _extended(play: HeardPlay) -> dict[str, Any]:
    offline = play.offline_started_at
    return {
        "ts": f"{play.played_at:%Y-%m-%dT%H:%M:%SZ}",
        "platform": None,
        "ms_played": play.listened_ms or COUNTED_FROM_MS,
        "conn_country": None,
        "ip_addr": None,
        "master_metadata_track_name": play.track_name or None,
        "master_metadata_album_artist_name": play.artist_name or None,
        "master_metadata_album_album_name": play.album_name or None,
        "spotify_track_uri": f"spotify:track:{play.track_id}",
        "episode_name": None,
        "episode_show_name": None,
        "spotify_episode_uri": None,
        "audiobook_title": None,
        "audiobook_uri": None,
        "audiobook_chapter_uri": None,
        "audiobook_chapter_title": None,
        "reason_start": None,
        "reason_end": None,
        "shuffle": None,
        "skipped": None,
        "offline": offline is not None or None,
        "offline_timestamp": offline and int(offline.timestamp()),
        "incognito_mode": None,
    }


def _account(play: HeardPlay) -> dict[str, Any]:
    return {
        "endTime": f"{play.played_at:%Y-%m-%d %H:%M}",
        "artistName": play.artist_name,
        "trackName": play.track_name,
        "msPlayed": play.listened_ms,
    }


def _listen(play: HeardPlay) -> dict[str, Any]:
    began_at = play.played_at - timedelta(milliseconds=play.listened_ms)
    named = play.track_id.startswith(NAMED)
    link = None if named else f"https://open.spotify.com/track/{play.track_id}"
    known = {
        "submission_client": "spotify_pipeline",
        "music_service": "spotify.com",
        "spotify_id": link,
        "origin_url": link,
        "duration_ms": play.duration_ms,
        "isrc": play.isrc,
    }
    metadata = {
        "artist_name": play.artist_name,
        "track_name": play.track_name,
        "release_name": play.album_name or None,
        "additional_info": {name: value for name, value in known.items() if value is not None},
    }
    return {
        "listened_at": int(began_at.timestamp()),
        "track_metadata": {name: value for name, value in metadata.items() if value is not None},
    }
