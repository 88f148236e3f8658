"""Reads exports of Spotify: which files hold a history, and their rows.

A history is recognised by its rows, whatever the file's name. Of Spotify's other files the known
ones (payments, identity, messages ...) are not opened at all.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from spotify_pipeline.domain.parsing import FUTURE_AFTER
from spotify_pipeline.exports.archives import Member, Upload, clean, members
from spotify_pipeline.exports.errors import BadExport, NotAnArray
from spotify_pipeline.exports.json_array import read_array
from spotify_pipeline.exports.rows import ExportRow, Malformed, Source, parse_row, source_of

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
