"""A hostile or broken export is refused in one sentence that names it, with bounded memory."""

import contextlib
import gzip
import io
import json
import os
import socket
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.errors import UsageError
from spotify_pipeline.exports import archives
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline_tests.exports.rows import NOW, account, extended, read, write, write_zip

ROWS = json.dumps([extended() for _ in range(50)]).encode()
HISTORY = "Streaming_History_Audio_2024_0.json"


def file(content: bytes) -> Callable[[Path], Path]:
    """A JSON file of these bytes."""

    def make(folder: Path) -> Path:
        (folder / HISTORY).write_bytes(content)
        return folder / HISTORY

    return make


def archive(files: dict[str, bytes], **changes: object) -> Callable[[Path], Path]:
    """A zip of these files; `changes` are set on the entry of each."""

    def make(folder: Path) -> Path:
        path = folder / "my_spotify_data.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name, content in files.items():
                info = zipfile.ZipInfo(name)
                info.filename = name
                info.compress_type = zipfile.ZIP_DEFLATED
                for field, value in changes.items():
                    setattr(info, field, value)
                made.writestr(info, content)
        return path

    return make


def edited(edit: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], Path]:
    """A good zip whose bytes were changed."""

    def make(folder: Path) -> Path:
        path = write_zip(folder / "my_spotify_data.zip", {HISTORY: ROWS})
        path.write_bytes(edit(bytearray(path.read_bytes())))
        return path

    return make


def twice(folder: Path) -> Path:
    path = folder / "my_spotify_data.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(HISTORY, ROWS)
        with pytest.warns(UserWarning, match="Duplicate name"):
            made.writestr(HISTORY, ROWS)
    return path


def encrypted(content: bytearray) -> bytearray:
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    return content


def flipped(content: bytearray) -> bytearray:
    content[len(content) // 3] ^= 0xFF
    return content


def with_directory_of(size: int) -> Callable[[bytearray], bytearray]:
    """Claims a central directory of `size` bytes, and has them."""

    def edit(content: bytearray) -> bytearray:
        end = content.rindex(b"PK\x05\x06")
        tail = content[end:]
        tail[12:16] = struct.pack("<L", size)
        return content[:end] + bytes(size) + tail

    return edit


def larger_than_it_says(content: bytearray) -> bytearray:
    """The entry claims 100 bytes."""
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<L", 100)
    return content


def with_field(signature: bytes, offset: int, value: bytes) -> Callable[[bytearray], bytearray]:
    """Writes `value` at an offset of the first header of this kind."""

    def edit(content: bytearray) -> bytearray:
        at = content.index(signature) + offset
        content[at : at + len(value)] = value
        return content

    return edit


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def overlapping(folder: Path) -> Path:
    """A hundred entries of one body: a bomb whose every entry is small."""
    path = write_zip(folder / "my_spotify_data.zip", {HISTORY: ROWS})
    content = path.read_bytes()
    start, end = content.index(CENTRAL), content.index(END)
    entry, tail = content[start:end], bytearray(content[end:])
    names = [HISTORY.replace("2024", f"{1900 + number}").encode() for number in range(100)]
    entries = b"".join(entry.replace(HISTORY.encode(), name) for name in names)
    tail[8:16] = struct.pack("<HHL", len(names), len(names), len(entries))
    path.write_bytes(content[:start] + entries + tail)
    return path


def zip64_that_lies(content: bytearray) -> bytearray:
    """The extra field of the entry claims 2**60 bytes."""
    at = content.index(CENTRAL)
    content[at + 24 : at + 28] = b"\xff" * 4
    extra = struct.pack("<HHQ", 1, 8, 2**60)
    content[at + 30 : at + 32] = struct.pack("<H", len(extra))
    after_name = at + 46 + len(HISTORY)
    content[after_name:after_name] = extra
    end = content.index(END)
    content[end + 12 : end + 16] = struct.pack("<L", end - at)
    return content


def zip64_without_its_field(content: bytearray) -> bytearray:
    """The end of the directory refers to a zip64 record that is not there."""
    end = content.rindex(END)
    content[end + 8 : end + 20] = b"\xff" * 12
    return content


def bomb_in_gzip(folder: Path) -> Path:
    path = folder / HISTORY
    path.write_bytes(gzip.compress(b"[" + b" " * 1_000_000 + b"]"))
    return path


def long_text(folder: Path) -> Path:
    """A gigabyte of one text, in a sparse file."""
    path = folder / HISTORY
    with path.open("wb") as out:
        out.write(b'[{"ts": "')
        out.truncate(2**30 - 1)
    return path


def too_large(folder: Path) -> Path:
    with (folder / HISTORY).open("wb") as out:
        out.truncate(2**30 + 1)
    return folder / HISTORY


def fifo_as_zip(folder: Path) -> Path:
    os.mkfifo(folder / "data.zip")
    return folder / "data.zip"


def link_in_a_circle(folder: Path) -> Path:
    (folder / HISTORY).symlink_to(folder / "other.json")
    (folder / "other.json").symlink_to(folder / HISTORY)
    return folder


def a_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):
        server.bind("s.json")
    return folder / "s.json"


def link_in_folder(folder: Path) -> Path:
    data = folder / "data"
    write(data / "good.json", extended())
    (data / HISTORY).symlink_to("/etc/passwd")
    return data


def linked_folder(folder: Path) -> Path:
    write(folder / "data" / "good.json", extended())
    (folder / "data" / "more").symlink_to(folder)
    return folder / "data"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / HISTORY)
    return folder / HISTORY


CORPUS: dict[str, Callable[[Path], Path]] = {
    # Archives
    "a bomb by ratio": archive({HISTORY: b"[" + b" " * 8_000_000}),
    "many bombs": archive({f"{number}_{HISTORY}": b" " * 5_000_000 for number in range(3)}),
    "a directory of millions of entries": edited(with_directory_of(2**21)),
    "a thousand and one entries": archive({f"{number}.json": b"[]" for number in range(1_001)}),
    "a directory larger than the file": edited(
        lambda content: (
            content[: content.rindex(b"PK\x05\x06") + 12]
            + struct.pack("<L", 2**31)
            + content[content.rindex(b"PK\x05\x06") + 16 :]
        )
    ),
    "an absolute path": archive({"/etc/" + HISTORY: ROWS}),
    "a climbing path": archive({"../../" + HISTORY: ROWS}),
    "a path that climbs later": archive({"data/../../" + HISTORY: ROWS}),
    "a climbing path of Windows": archive({"..\\" + HISTORY: ROWS}),
    "a drive of Windows": archive({"C:/" + HISTORY: ROWS}),
    "a network share of Windows": archive({"\\\\server\\" + HISTORY: ROWS}),
    "a link": archive({HISTORY: b"/etc/passwd"}, external_attr=0o120777 << 16),
    "a zip in a zip": archive({"inner.zip": b"PK\x05\x06" + bytes(18)}),
    "an encrypted entry": edited(encrypted),
    "one name twice": twice,
    "an entry of bzip2": archive({HISTORY: ROWS}, compress_type=zipfile.ZIP_BZIP2),
    "an entry of lzma": archive({HISTORY: ROWS}, compress_type=zipfile.ZIP_LZMA),
    "an entry larger than it says": edited(larger_than_it_says),
    "a flipped byte": edited(flipped),
    "a zip that is cut off": edited(lambda content: content[: len(content) // 2]),
    "a zip of two bytes": edited(lambda content: content[:2]),
    "a zip without entries": archive({}),
    "a zip without a history": archive({"Userdata.json": b"{}", "ReadMe.pdf": b"%PDF"}),
    "a broken file in a zip": archive({"good.json": ROWS, HISTORY: ROWS[:-700]}),
    "a name with a NUL": edited(
        lambda content: content.replace(HISTORY.encode(), b"../../x\x00" + HISTORY[8:].encode())
    ),
    "an entry of deflate64": edited(with_field(CENTRAL, 10, b"\x09\x00")),
    "an entry of an unknown method": edited(with_field(CENTRAL, 10, b"\xff\x7f")),
    "a wrong checksum": edited(with_field(CENTRAL, 16, b"\0\0\0\0")),
    "a header that is not where the directory says": edited(with_field(CENTRAL, 42, b"\x05")),
    "a header of another name": edited(with_field(LOCAL, 30, b"X")),
    "a body shorter than it says": edited(with_field(CENTRAL, 20, struct.pack("<L", 20))),
    "zip64 that claims 2**60 bytes": edited(zip64_that_lies),
    "zip64 without its record": edited(zip64_without_its_field),
    "a hundred entries of one body": overlapping,
    "a zip in a zip with a capital name": archive({"data/INNER.ZIP": b"PK\x05\x06" + bytes(18)}),
    "a device as an entry": archive({HISTORY: b""}, external_attr=0o020666 << 16),
    # Folders and paths
    "a pipe called zip": fifo_as_zip,
    "a socket": a_socket,
    "a device": lambda _: Path("/dev/zero"),
    "links in a circle": link_in_a_circle,
    "a file of more than a gigabyte": too_large,
    "a link in a folder": link_in_folder,
    "a link to a folder": linked_folder,
    "a folder without files": lambda folder: folder,
    "a missing path": lambda folder: folder / "missing.zip",
    "a pipe": fifo,
    # Texts
    "an empty file": file(b""),
    "white space": file(b" \n\t" * 1000),
    "a PDF": file(b"%PDF-1.7 ..."),
    "random bytes": file(bytes(range(256)) * 10),
    "UTF-16 with a mark": file(ROWS.decode().encode("utf-16")),
    "UTF-16 without a mark": file(ROWS.decode().encode("utf-16-le")),
    "UTF-32": file(ROWS.decode().encode("utf-32")),
    "Latin-1": file(ROWS.replace(b"Song", b"S\xf6ng")),
    "half a character at the end": file(ROWS + b"\xc3"),
    "a NUL between rows": file(ROWS.replace(b"}, {", b"}, \x00{", 1)),
    "a raw NUL in a text": file(ROWS.replace(b"Song", b"So\x00ng", 1)),
    "a gigabyte of one text": long_text,
    "gzip called json": bomb_in_gzip,
    "two marks of byte order": file(b"\xef\xbb\xbf\xef\xbb\xbf" + ROWS),
    "a character in five bytes": file(ROWS.replace(b"Song", b"\xf8\x88\x80\x80\x80", 1)),
    "a NUL written in two bytes": file(ROWS.replace(b"Song", b"\xc0\x80", 1)),
    # JSON
    "a number with a leading zero": file(ROWS.replace(b"213000", b"0213000", 1)),
    "a hexadecimal number": file(ROWS.replace(b"213000", b"0x3400", 1)),
    "a half escape": file(ROWS.replace(b"Song", b"\\u12", 1)),
    "an array in an array": file(b"[" + ROWS + b"]"),
    "null": file(b"null"),
    "an object": file(b'{"ts": "2024-03-01T12:34:56Z", "ms_played": 1}'),
    "a text": file(b'"ts"'),
    "an empty array": file(b"[]"),
    "an array of numbers": file(b"[1, 2, 3]"),
    "lines of objects": file(b'{"ts": 1}\n{"ts": 2}'),
    "a file cut off in a row": file(ROWS[:-300]),
    "a file cut off in a text": file(ROWS[: ROWS.rindex(b"Song") + 2]),
    "a file cut off between rows": file(ROWS[: ROWS.rindex(b", {") + 2]),
    "a file without its last bracket": file(ROWS[:-1]),
    "a missing comma": file(ROWS.replace(b"}, {", b"} {", 1)),
    "a comma after the last row": file(ROWS[:-1] + b",]"),
    "something after the last bracket": file(ROWS + b" []"),
    "single quotes": file(ROWS.replace(b'"', b"'")),
    "a comment": file(b"[ // mine\n" + ROWS[1:]),
    "deep arrays": file(ROWS[:-1] + b"," + b"[" * 100_000),
    "deep arrays that end": file(ROWS[:-1] + b"," + b"[" * 100_000 + b"]" * 100_000 + b"]"),
    "deep objects": file(ROWS[:-1] + b"," + b'{"a":' * 100_000),
    "a number of a million digits": file(ROWS[:-1] + b"," + b"9" * 1_000_000 + b"]"),
    "a number of ten thousand digits": file(ROWS.replace(b"213000", b"9" * 10_000, 1)),
    "a text of three megabytes": file(ROWS.replace(b"Song", b"x" * 3_000_000, 1)),
    "a million fields": file(ROWS[:-1] + b',{"a":1' + b',"a":1' * 300_000 + b"}]"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_export_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    """One line that names the file, exit code 2, and never a text of the file itself."""
    path = CORPUS[name](tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as refused:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(refused.value)
    assert path.name in message
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 500
    assert refused.value.exit_code == 2
    assert "203.0.113" not in message
    assert peak < 6_000_000


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the operating system's answer is given here."""
    path = write(tmp_path / HISTORY, extended())

    def refuse(*_: object, **__: object) -> io.BytesIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=f"{HISTORY} cannot be read: Permission denied"):
        read(path)


@pytest.mark.parametrize("limit", ["LARGEST_FILE", "LARGEST_ARCHIVE"])
def test_an_archive_that_unpacks_to_more_than_an_export_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    path = write_zip(tmp_path / "a.zip", {f"{number}.json": ROWS for number in range(3)})
    read(path)
    monkeypatch.setattr(archives, limit, len(ROWS) - 1)
    with pytest.raises(UsageError, match=r"a\.zip/0\.json unpacks to far more"):
        read(path)


def test_an_archive_without_a_history_says_what_to_request(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "my_spotify_data.zip",
        {"Spotify Account Data/Userdata.json": "{}", "Spotify Account Data/Payments.json": "{}"},
    )
    with pytest.raises(UsageError) as refused:
        read(path)
    assert "my_spotify_data.zip holds no listening history, only Payments.json, Userdata.json." in (
        str(refused.value)
    )
    assert '"Extended streaming history"' in str(refused.value)


def test_hostile_names_are_shown_without_control_characters(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"evil\x1b[31m\n.json": [account()]})
    files, [row] = read(path)
    assert row.file == files[0].name == "a.zip/evil\ufffd[31m\ufffd.json"


GOOD = json.dumps([extended(), account()]).encode()


def _good_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("data/StreamingHistory0.json", json.dumps([account()] * 3))
        made.writestr("data/Userdata.json", "{}")
    return out.getvalue()


EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=4)), min_size=1, max_size=8
)


@pytest.mark.parametrize("good", [GOOD, _good_zip()], ids=["json", "zip"])
@given(edits=EDITS)
def test_damaged_bytes_are_read_or_refused_and_never_anything_else(
    good: bytes, edits: list[tuple[float, int, bytes]]
) -> None:
    """Bytes are cut out and others put in at random places."""
    content = bytearray(good)
    for share, cut, put in edits:
        at = int(share * len(content))
        content[at : at + cut] = put
    upload = archives.Upload("x.zip", io.BytesIO(bytes(content)))
    with contextlib.suppress(UsageError):
        for found in read_exports([upload], now=NOW, include_incognito=False):
            plays = sum(1 for _ in found.rows())
            assert plays + found.counts.total() == found.rows_read
