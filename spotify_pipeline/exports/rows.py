"""Parses a row of an export: a play, or the reason why it is none.

Never read from a row: ip address, user agent, username, country and platform.

Fates are decided in this order, so that every row has exactly one:

    malformed   no readable time or length, a length above a day, a wrong type, a track uri that
                is none
    podcast     an episode and no track
    audiobook   a chapter and no track
    local       an extended row without a Spotify id: a file on the user's own disk
    silent      0 ms
    future      ends more than 5 minutes after `now`
    incognito   a private session, unless asked for; so this counts what asking for it adds

Everything else is a play, music videos included. Names stay as Spotify writes them, spaces around
them too, because the Web API sends the same text; without NUL and lone surrogates, which Postgres
cannot store. A name that is missing or blank is "". "Unknown Artist" is Spotify's own text in
account data and stays: the time was listened.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from spotify_pipeline.domain.fields import Texts, read_instant, read_integer

Source = Literal["extended", "account"]
ReaderFate = Literal["malformed", "podcast", "audiobook", "local", "silent", "future", "incognito"]

_LONGEST_MS = 24 * 3_600_000
_LONGEST_NAME = 1_000
# Premium keeps downloads for 30 days without a connection: an older start is a wrong clock.
_LONGEST_OFFLINE = timedelta(days=31)
# The form of nearly all timestamps, parsed fast.
_USUAL_TIME = re.compile("20(0[6-9]|[1-9][0-9])-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TRACK = "spotify:track:"
_ID_LENGTH = 22
# Milliseconds from here on, seconds below: the year 5138 in seconds, 1973 in milliseconds.
_MILLISECONDS_FROM = 10**11


class ExportRow(NamedTuple):
    """A row that may become a play. (A dataclass takes four times as long to make.)

    `ended_at` is UTC, in whole seconds; of account data the minute. `ms_played` is 1 to a day.
    `track_id` is None in account data. `offline_started_at` (UTC) is set only for a play without a
    connection, whose `ended_at` may be hours later than the listening. `file` is unique among the
    files of one call of `read_exports`, `number` counts the rows of the file from 0.
    """

    source: Source
    ended_at: datetime
    ms_played: int
    track_id: str | None
    track_name: str
    artist_name: str
    album_name: str | None
    offline_started_at: datetime | None
    file: str
    number: int


class Malformed(Exception):
    """The row cannot be read; the message is the reason and quotes nothing of the row."""


def source_of(row: object) -> Source | None:
    """The format that a row has by its fields; None if it is no row of a history."""
    if not isinstance(row, dict):
        return None
    if "ts" in row and "ms_played" in row:
        return "extended"
    return "account" if "endTime" in row and "msPlayed" in row else None


def parse_row(
    row: object, source: Source, file: str, index: int, latest: datetime, include_incognito: bool
) -> tuple[datetime, ExportRow | ReaderFate]:
    """When the row ended (UTC) and what it is. Raises Malformed.

    `latest` is the instant after which a row lies in the future.
    """
    if not isinstance(row, dict):
        raise Malformed("not an object")
    parse = _parse_extended if source == "extended" else _parse_account
    play = parse(row, file, index)
    if not isinstance(play, ExportRow):
        return play
    if play.ms_played == 0:
        return play.ended_at, "silent"
    if play.ended_at > latest:
        return play.ended_at, "future"
    if row.get("incognito_mode") is True and not include_incognito:
        return play.ended_at, "incognito"
    return play.ended_at, play


def _parse_extended(
    row: Mapping[str, object], file: str, index: int
) -> ExportRow | tuple[datetime, ReaderFate]:
    ended_at = _instant(row, "ts")
    if ended_at.microsecond:
        ended_at = ended_at.replace(microsecond=0)
    ms_played = _length(row, "ms_played")
    track_id = _track_id(row.get("spotify_track_uri"))
    if track_id is None:
        if row.get("spotify_episode_uri") or row.get("episode_name"):
            return ended_at, "podcast"
        if row.get("audiobook_uri") or row.get("audiobook_title"):
            return ended_at, "audiobook"
        return ended_at, "local"
    return ExportRow(
        "extended",
        ended_at,
        ms_played,
        track_id,
        _name(row, "master_metadata_track_name"),
        _name(row, "master_metadata_album_artist_name"),
        _name(row, "master_metadata_album_album_name") or None,
        _offline_start(row, ended_at) if row.get("offline") is True else None,
        file,
        index,
    )


def _parse_account(
    row: Mapping[str, object], file: str, index: int
) -> ExportRow | tuple[datetime, ReaderFate]:
    ended_at = _instant(row, "endTime").replace(second=0, microsecond=0)
    ms_played = _length(row, "msPlayed")
    if "trackName" not in row or "artistName" not in row:
        if "podcastName" in row or "episodeName" in row:
            return ended_at, "podcast"
        if "audiobookName" in row or "chapterName" in row:
            return ended_at, "audiobook"
        raise Malformed("artistName or trackName is missing")
    track_name, artist_name = _name(row, "trackName"), _name(row, "artistName")
    return ExportRow(
        "account", ended_at, ms_played, None, track_name, artist_name, None, None, file, index
    )


def _instant(row: Mapping[str, object], field: str) -> datetime:
    text = row.get(field)
    if isinstance(text, str) and _USUAL_TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text)
        except ValueError:  # the 30th of February
            pass
    # Exports of 2018 write "2018-05-25 12:34:56 UTC".
    instant = read_instant(text.removesuffix(" UTC") if isinstance(text, str) else text)
    if instant is None:
        raise Malformed(f"{field} is not a time since 2006")
    return instant


def _length(row: Mapping[str, object], field: str) -> int:
    length = read_integer(row.get(field), 0, _LONGEST_MS)
    if length is None:
        raise Malformed(f"{field} is not a number of milliseconds from 0 to a day")
    return length


def _track_id(uri: object) -> str | None:
    if uri is None or uri == "":
        return None
    if isinstance(uri, str):
        track_id = uri.removeprefix(_TRACK)
        if len(uri) == len(_TRACK) + _ID_LENGTH and track_id.isalnum() and track_id.isascii():
            return track_id
        if uri.startswith(("spotify:local:", "spotify:episode:")):
            return None
    raise Malformed("spotify_track_uri is not the uri of a track")


def _name(row: Mapping[str, object], field: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    # Cleaning is slow, and a printable text needs none.
    usual = isinstance(value, str) and value.isprintable()
    name = str(value) if usual else Texts().read(value)
    if name is None or len(name) > _LONGEST_NAME:
        raise Malformed(f"{field} is not a text of at most {_LONGEST_NAME} characters")
    return name if name.strip() else ""


def _offline_start(row: Mapping[str, object], ended_at: datetime) -> datetime | None:
    """When a play without a connection began; None where Spotify does not say, or not credibly."""
    stamp = read_integer(row.get("offline_timestamp"), 1, 2**53)
    if stamp is None:
        return None
    seconds = stamp / 1000 if stamp >= _MILLISECONDS_FROM else stamp
    age = ended_at.timestamp() - seconds
    if not 0 <= age <= _LONGEST_OFFLINE.total_seconds():
        return None
    return datetime.fromtimestamp(seconds, UTC)
