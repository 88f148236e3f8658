"""The files of an export: in a zip, in a folder or by themselves. Refuses hostile archives.

Nothing is ever unpacked to disk. Every limit is far above what Spotify sends: an export of fifteen
years has about 30 files of 12 MB that compress 20 to 40 times.
"""

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from spotify_pipeline.errors import UsageError


class BadExport(UsageError):
    """A file or archive that cannot be imported; the message names it and says what to do."""


# Uncompressed bytes.
LARGEST_FILE = 1024**3
LARGEST_ARCHIVE = 4 * 1024**3
_HIGHEST_RATIO = 250
# A short file of equal rows compresses better than any real one.
_RATIO_FROM = 4 * 1024**2
# zipfile reads the whole directory into memory, each time that an entry is opened.
_LARGEST_DIRECTORY = 1024**2
_MOST_ENTRIES = 1_000
_MOST_FILES = 10_000
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is not on disk, such as one sent by a browser. `stream` can seek."""

    name: str
    stream: BinaryIO


@dataclass(frozen=True, slots=True)
class Member:
    """A file that may hold a history. `size` is in bytes, uncompressed; `name` is for messages."""

    name: str
    size: int
    container: Path | Upload
    # The path inside the zip; None if the container is the file itself.
    entry: str | None = None

    @property
    def identity(self) -> tuple[Path | Upload, str | None]:
        """Equal for two ways to name one file."""
        container = self.container
        return (container if isinstance(container, Upload) else container.resolve(), self.entry)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Opens the file for reading. Raises BadExport, also for what is found while reading."""
        with ExitStack() as opened:
            try:
                stream: IO[bytes] = opened.enter_context(_open(self.container))
                if self.entry is not None:
                    archive = opened.enter_context(zipfile.ZipFile(stream))
                    stream = opened.enter_context(archive.open(self.entry))
            except (*_DAMAGED, OSError, ValueError, KeyError) as error:
                raise _damaged(self.name, error) from None
            try:
                yield stream
            except (*_DAMAGED, OSError) as error:
                raise _damaged(self.name, error) from None


def members(container: Path | Upload) -> Iterator[Member]:
    """The JSON files of a path or an upload, in the order of their names. Raises BadExport."""
    if isinstance(container, Upload):
        yield from _members_of_file(container, clean(container.name))
    elif container.is_dir():
        yield from _members_of_folder(container)
    elif not container.exists():
        raise BadExport(f"{clean(str(container))} does not exist.")
    elif not container.is_file():
        raise BadExport(f"{clean(str(container))} is neither a file nor a folder.")
    else:
        yield from _members_of_file(container, clean(container.name))


def clean(name: str) -> str:
    """A file name that can be printed and stored: no control characters, no lone surrogates."""
    return re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", name)[-300:]


def _open(container: Path | Upload) -> AbstractContextManager[BinaryIO]:
    """The bytes of a file on disk or of an upload, from the beginning."""
    if isinstance(container, Upload):
        container.stream.seek(0)
        return nullcontext(container.stream)
    return container.open("rb")


def _members_of_folder(folder: Path) -> Iterator[Member]:
    def shown(path: Path) -> str:
        return clean(str(path.relative_to(folder.parent)))

    def unreadable(error: OSError) -> None:
        raise _damaged(shown(Path(error.filename)), error)

    found = 0
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name != "__MACOSX")
        for name in (*folders, *sorted(names, key=_natural)):
            path = Path(parent, name)
            history = path.suffix.lower() in (".json", ".zip") and not name.startswith("._")
            # A link could lead to any file of this machine.
            if path.is_symlink() and (history or name in folders):
                raise BadExport(f"{shown(path)} is a link. Remove it from the folder.")
            if not history or not path.is_file():
                continue
            found += 1
            if found > _MOST_FILES:
                raise BadExport(f"{clean(folder.name)} has more than {_MOST_FILES} files.")
            yield from _members_of_file(path, shown(path))


def _members_of_file(container: Path | Upload, name: str) -> Iterator[Member]:
    try:
        with _open(container) as stream:
            if stream.read(2) == b"PK":
                yield from _members_of_zip(container, stream, name)
                return
            size = stream.seek(0, io.SEEK_END)
    except OSError as error:
        raise _damaged(name, error) from None
    if size == 0:
        raise BadExport(f"{name} is empty.")
    if size > LARGEST_FILE:
        raise BadExport(f"{name} is larger than {LARGEST_FILE >> 20} MB.")
    yield Member(name, size, container)


def _members_of_zip(container: Path | Upload, stream: BinaryIO, name: str) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(_Cautious(stream, name)) as archive:
            infos = archive.infolist()
        size = stream.seek(0, io.SEEK_END)
    except (*_DAMAGED, OSError, ValueError) as error:
        raise _damaged(name, error) from None
    _check_archive(infos, size, name)
    for info in sorted(infos, key=lambda info: _natural(info.filename)):
        path = PurePosixPath(info.filename)
        if path.suffix.lower() != ".json" or "__MACOSX" in path.parts:
            continue
        yield Member(clean(f"{name}/{info.filename}"), info.file_size, container, info.filename)


def _check_archive(infos: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """Raises BadExport for an archive, of `size` bytes, that Spotify did not make so."""
    if len(infos) > _MOST_ENTRIES:
        raise BadExport(f"{name} lists far more files than an export has. {_ORIGINAL}")
    if sum(info.compress_size for info in infos) > size:
        # One body for many entries: each passes the limits below.
        raise BadExport(f"{name} has files that overlap. {_ORIGINAL}")
    seen: set[str] = set()
    total = 0
    for info in infos:
        file = f"{name}/{clean(info.filename)}"
        # A backslash is a separator on Windows only.
        parts = info.filename.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts or ":" in parts[0]:
            raise BadExport(f"{file} has a path that leaves the archive. {_ORIGINAL}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise BadExport(f"{file} is a link. {_ORIGINAL}")
        if info.filename in seen:
            raise BadExport(f"{file} stands in the archive twice. {_ORIGINAL}")
        seen.add(info.filename)
        if info.flag_bits & 1:
            raise BadExport(f"{file} is encrypted. Unpack the archive and import the folder.")
        if info.filename.lower().endswith(".zip"):
            raise BadExport(
                f"{file} is a zip in a zip. Unpack the outer one and import the folder."
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadExport(f"{file} is compressed in a way that Spotify never uses. {_ORIGINAL}")
        total += info.file_size
        bomb = info.file_size > _HIGHEST_RATIO * max(info.compress_size, 1)
        if (
            info.file_size > LARGEST_FILE
            or total > LARGEST_ARCHIVE
            or (bomb and info.file_size > _RATIO_FROM)
        ):
            raise BadExport(f"{file} unpacks to far more than an export has. {_ORIGINAL}")


_ORIGINAL = "Import the archive as Spotify sent it."


class _Cautious:
    """A zip of which no single read is large: a directory of millions of entries is refused."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self.seek, self.tell = stream.seek, stream.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST_DIRECTORY:
            raise BadExport(f"{self._name} lists far more files than an export has. {_ORIGINAL}")
        return self._stream.read(size)


def _damaged(name: str, error: Exception) -> BadExport:
    if isinstance(error, OSError) and error.strerror:
        return BadExport(f"{name} cannot be read: {error.strerror}.")
    return BadExport(f"{name} is damaged. Download it from Spotify again.")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts file 10 after file 9."""
    return [
        (int(part), "") if part.isdecimal() and part.isascii() and len(part) < 18 else (-1, part)
        for part in re.split(r"(\d+)", name)
    ]
