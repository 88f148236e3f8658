"""Reads exports of Spotify: which files hold a history, and their rows.

A history is recognised by its rows, whatever the file's name. Of Spotify's other files the known
ones (payments, identity, messages ...) are not opened at all.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple

from spotify_pipeline.domain.parsing import FUTURE_AFTER, Texts, read_instant, read_integer
from spotify_pipeline.exports.archives import BadExport, Member, Upload, clean, members
from spotify_pipeline.exports.json_array import NotAnArray, read_array

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


# Malformed rows are counted all, and explained up to this number per file.
MALFORMED_EXPLAINED = 100
# A history whose first rows are all malformed is still recognised by the next.
_ROWS_LOOKED_AT = 100

_NEVER_OPENED = re.compile(
    r"(userdata|identi|payment|inferences|follow|playlist|yourlibrary|searchqueries|messagedata"
    r"|marquee|wrapped|yoursoundcapsule|family|duonewfamily|accountactivity)",
    re.IGNORECASE,
)
_REQUEST = (
    'Request "Extended streaming history" at https://www.spotify.com/account/privacy/ (weeks), or '
    '"Account data" (days, the last year), and import the zip that Spotify sends.'
)


@dataclass(eq=False)
class ExportFile:
    """A file of a history. Everything below `size` is complete when `rows` is exhausted.

    `size` and `bytes_read` are uncompressed bytes. `counts` has the rows that are no play, by fate
    (see `rows`); with the plays they sum up to `rows_read`. `first_at` and `last_at` (UTC) span all
    rows that have a time and do not lie in the future, plays or not: the file knows that interval.
    `malformed` has the index and the reason of the first hundred of these rows.
    """

    name: str
    source: Source
    size: int
    _member: Member
    _latest: datetime
    _include_incognito: bool
    bytes_read: int = 0
    rows_read: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first_at: datetime | None = None
    last_at: datetime | None = None
    malformed: list[tuple[int, str]] = field(default_factory=list)

    def rows(self) -> Iterator[ExportRow]:
        """Yields the rows that are plays, in the order of the file; may be called again.

        Raises BadExport in the middle if the file is broken there: discard what came before.
        """
        self.bytes_read = self.rows_read = 0
        self.first_at = self.last_at = None
        self.counts.clear()
        self.malformed.clear()
        with self._member.open() as stream:
            for index, row in enumerate(
                read_array(lambda size: self._read(stream, size), self.name)
            ):
                self.rows_read = index + 1
                try:
                    ended_at, play = parse_row(
                        row,
                        self.source,
                        self.name,
                        index,
                        self._latest,
                        self._include_incognito,
                    )
                except Malformed as reason:
                    self.counts["malformed"] += 1
                    if len(self.malformed) < MALFORMED_EXPLAINED:
                        self.malformed.append((index, str(reason)))
                    continue
                if play != "future":
                    self.first_at = min(self.first_at or ended_at, ended_at)
                    self.last_at = max(self.last_at or ended_at, ended_at)
                if isinstance(play, ExportRow):
                    yield play
                else:
                    self.counts[play] += 1

    def _read(self, stream: IO[bytes], size: int) -> bytes:
        chunk = stream.read(size)
        self.bytes_read += len(chunk)
        return chunk


def read_exports(
    paths: Sequence[Path | Upload], *, now: datetime, include_incognito: bool
) -> Iterator[ExportFile]:
    """The histories in zips, folders and JSON files, each with its rows as a stream.

    All files are looked at before the first is returned, so a hostile or unusable archive raises
    before any row is read, and the `size` of all is known. Raises BadExport: one sentence with the
    name of the file. `now` is an aware datetime.
    """
    # A file that is given twice, also as a part of its folder, is read once.
    found = {member.identity: member for path in paths for member in members(path)}
    histories: list[ExportFile] = []
    others: list[str] = []
    names: Counter[str] = Counter()
    for member in found.values():
        source = _recognise(member)
        if source is None:
            others.append(PurePosixPath(member.name).name)
            continue
        names[member.name] += 1
        # Two folders may have files of one name.
        again = f" ({names[member.name]})" if names[member.name] > 1 else ""
        histories.append(
            ExportFile(
                member.name + again,
                source,
                member.size,
                member,
                now + FUTURE_AFTER,
                include_incognito,
            )
        )
    if not histories:
        raise BadExport(_nothing_usable(paths, others))
    return iter(histories)


def _recognise(member: Member) -> Source | None:
    """The format of a file, by its first rows; None if it is no history. Raises BadExport."""
    base = PurePosixPath(member.name).name
    if base.startswith("._") or _NEVER_OPENED.match(base):
        return None
    with member.open() as stream:
        try:
            rows = islice(read_array(stream.read, member.name), _ROWS_LOOKED_AT)
            return next((source for row in rows if (source := source_of(row))), None)
        except NotAnArray:
            return None


def _nothing_usable(paths: Sequence[Path | Upload], others: list[str]) -> str:
    given = ", ".join(clean(path.name) for path in paths)
    if not others:
        return f"{given} holds no JSON files, so no listening history. {_REQUEST}"
    shown = ", ".join(others[:8]) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
    return f"{given} holds no listening history, only {shown}. {_REQUEST}"
