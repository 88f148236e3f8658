"""The upload of a user's own history: what is taken, what is refused, and what is left behind."""

import io
import json
import re
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import URL, Connection, func, select, text

from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.import_history import import_upload
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.web import history
from spotify_pipeline_tests.exports.rows import extended
from spotify_pipeline_tests.sync.imports.export_files import account_row, extended_row
from spotify_pipeline_tests.web.conftest import Site

END = datetime(2024, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ROWS = [
    *(extended_row(END + n * MINUTE, n) for n in range(5)),
    extended_row(END, 7, 0),
    extended_row(END, 8, incognito_mode=True),
    extended(ts="yesterday"),
]


def file_of(rows: object) -> bytes:
    return json.dumps(rows).encode()


def zip_of(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"My Data/{name}.json", data)
    return content.getvalue()


def upload(site: Site, *files: tuple[str, bytes], **fields: str) -> tuple[int, str]:
    """The status, and what the page complains of."""
    response = site.fetch(
        "POST",
        "/history",
        data={"csrf": site.csrf, **fields},
        files=[("files", file) for file in files] or {"files": ("", b"")},
    )
    return response.status_code, complaint(response.text)


def complaint(page: str) -> str:
    found = re.search(r"data-complaint>(.*?)</p>", page, re.DOTALL)
    return found[1].strip() if found else ""


def run_import(database: URL) -> None:
    """What the pipeline does with a closed upload."""
    environ = {
        "SPOTIFY_PIPELINE_DATABASE_URL": database.render_as_string(hide_password=False),
        "SPOTIFY_PIPELINE_TOKEN_KEYS": new_key()[1],
    }
    with open_pipeline(load_settings(environ)) as pipeline:
        import_upload(pipeline, "eve")


def stored(connection: Connection) -> list[Any]:
    return list(connection.scalars(select(t.history_imports.c.status)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_year_long_ago_is_shown_and_years_link_no_further_than_the_first_play(
    site: Site, database: URL
) -> None:
    first, this_year = datetime(2012, 2, 29, 12, tzinfo=UTC), datetime.now(UTC).year
    assert "←" not in site.fetch("GET", f"/year/{this_year}").text
    assert site.send("GET", "/year/2012") == 404
    rows = [extended_row(first + n * MINUTE, n % 2) for n in range(0, 9, 3)]
    assert upload(site, ("Streaming_History_Audio_1.json", file_of(rows))) == (303, "")
    run_import(database)
    page = site.fetch("GET", "/year/2012").text
    assert "3 plays on 1 day." in page
    assert "Singer 0" in page
    links = re.findall(r'href="/year/([0-9]+)"', page)
    assert links == ["2013"]
    assert set(re.findall(r'href="/year/([0-9]+)"', site.fetch("GET", "/year/2013").text)) == {
        "2012",
        "2014",
    }
    assert site.send("GET", "/year/2012/picture.svg") == 200
    assert (site.send("GET", "/year/2011"), site.send("GET", f"/year/{this_year + 1}")) == (
        404,
        404,
    )


def test_a_zip_is_imported_and_the_receipt_has_every_row(
    site: Site, database: URL, connection: Connection, folder: Path
) -> None:
    # Larger than what is kept in memory.
    padding = b" " * 2_000_000
    content = zip_of(
        Streaming_History_Audio_1=file_of(ROWS) + padding, Playlist1=b"{}", Identity=b"{}"
    )
    assert upload(site, ("export.zip", content)) == (303, "")
    assert stored(connection) == ["closed"]
    page = site.fetch("GET", "/history")
    assert page.headers["Cache-Control"] == "private, no-store"
    assert "5 plays are being imported" in page.text
    assert site.fetch("GET", "/history/status").json() == {"state": "closed", "rows_read": 5}
    assert upload(site, ("export.zip", content))[0] == 423
    run_import(database)
    page = site.fetch("GET", "/history")
    rows = re.findall(r"<tr><td>(\d+)</td><th scope=\"row\"><b>(\w+)</b>", page.text)
    assert [(fate, int(count)) for count, fate in rows] == [
        *(("new", 5), ("silent", 1), ("incognito", 1), ("malformed", 1)),
    ]
    assert "Row 7: ts is not a time since 2006." in page.text
    assert list(folder.iterdir()) == []
    # Again, with private sessions: one more play.
    assert upload(site, ("export.zip", content), incognito="on") == (303, "")
    run_import(database)
    plays = connection.scalar(select(func.count()).select_from(t.plays))
    assert plays == 6


def test_files_one_by_one_and_both_formats_are_taken(
    site: Site, database: URL, connection: Connection
) -> None:
    account = [account_row(END, 0), account_row(END + 90 * MINUTE, 9)]
    names = ("<script>alert(1)</script>.json", "StreamingHistory0.json")
    assert upload(site, (names[0], file_of(ROWS)), (names[1], file_of(account))) == (303, "")
    run_import(database)
    page = site.fetch("GET", "/history").text
    assert "superseded" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.json" in page
    assert connection.scalar(select(func.count()).select_from(t.plays)) == 6


BOMB = zip_of(endsong_0=b"[" + b" " * 9_000_000 + b"]")
CUT_OFF = file_of(ROWS * 2_000)[:-20]

REFUSED: list[tuple[str, list[tuple[str, bytes]], str]] = [
    ("nothing chosen", [], "Choose the zip"),
    ("an empty file", [("a.json", b"")], "a.json is empty."),
    ("no history", [("a.zip", zip_of(Userdata=b"{}"))], "a.zip holds no listening history, only"),
    ("no json", [("a.txt", b"hello")], "a.txt holds no listening history"),
    ("a bomb", [("a.zip", BOMB)], "unpacks to far more than an export has"),
    ("a zip in a zip", [("a.zip", b"PK\x03\x04rubbish")], "a.zip is damaged."),
    ("a cut file", [("a.json", CUT_OFF)], "a.json is cut off or broken after"),
    (
        "one of two broken",
        [("a.json", file_of(ROWS)), ("b.json", CUT_OFF)],
        "b.json is cut off or broken",
    ),
]


@pytest.mark.parametrize(
    ("files", "sentence"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_an_invalid_upload_is_refused_in_a_sentence_and_leaves_nothing(
    site: Site,
    connection: Connection,
    folder: Path,
    files: list[tuple[str, bytes]],
    sentence: str,
) -> None:
    status, said = upload(site, *files)
    assert (status, sentence in said) == (400, True), said
    assert stored(connection) == []
    assert list(folder.iterdir()) == []


def test_a_foreign_or_malformed_form_is_refused(site: Site, connection: Connection) -> None:
    file = {"files": ("a.json", file_of(ROWS))}
    assert site.send("POST", "/history", data={"csrf": "wrong"}, files=file) == 403
    assert site.send("POST", "/history", files=file) == 403
    assert site.send("POST", "/history", signed_in=False, files=file) == 303
    assert site.send("GET", "/history", signed_in=False) == 303
    assert site.send("POST", "/history", data={"csrf": site.csrf}) == 415
    for kind in ("multipart/form-data", "multipart/form-data; boundary=B; charset=punycode"):
        headers = {"Content-Type": kind}
        assert site.send("POST", "/history", data=b"--B--", headers=headers) == 415
    for body in (b"", b"rubbish", b"--B\r\n\r\n\r\n", b"--B\r\nContent-Disposition: x\r\n\r\n"):
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        assert site.send("POST", "/history", data=body, headers=headers) in (400, 403), body
    assert stored(connection) == []


def test_an_upload_that_is_too_large_is_refused_before_it_is_read(
    site: Site, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_UPLOAD_BYTES", 100_000)
    status, said = upload(site, ("a.json", b" " * 3_000_000))
    assert (status, "An upload has at most" in said) == (413, True)
    # Without a length it is counted while it comes.
    pieces = (b"--B\r\n" + b" " * 100_000 for _ in range(30))
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert site.send("POST", "/history", data=pieces, headers=headers) in (400, 413)
    monkeypatch.setattr(history, "MAX_UNPACKED_BYTES", 1_000)
    status, said = upload(site, ("a.json", file_of(ROWS)))
    assert (status, "unpacks to more" in said) == (413, True)
    assert stored(connection) == []


def test_uploads_at_once_are_limited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_UPLOADS", 0)
    status, said = upload(site, ("a.json", file_of(ROWS)))
    assert (status, "Others are uploading" in said) == (503, True)


def test_an_upload_that_stops_in_the_middle_is_refused(
    site: Site, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "STALLED_SECONDS", 0.3)
    address = urlsplit(site.url)
    head = (
        f"POST /history HTTP/1.1\r\nHost: {address.netloc}\r\nCookie: {site.cookie}\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\nContent-Length: 400000000\r\n\r\n--B"
    )
    with socket.create_connection((address.hostname, address.port), timeout=20) as client:
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    # Its place is free again.
    assert upload(site, ("a.json", file_of(ROWS))) == (303, "")
    assert stored(connection) == ["closed"]


def test_an_upload_whose_session_ended_meanwhile_is_refused(
    site: Site, connection: Connection
) -> None:
    body = (
        f'--B\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{site.csrf}\r\n--B\r\n'
        'Content-Disposition: form-data; name="files"; filename="a.json"\r\n\r\n'
    ).encode() + file_of(ROWS)

    headers = {"Content-Type": "multipart/form-data; boundary=B"}

    def parts() -> Iterator[bytes]:
        yield body
        # Refused as the second upload of one user, once the first has begun.
        while site.send("POST", "/history", data=b"--B--", headers=headers) != 423:
            pass
        connection.execute(text("SELECT spotify_pipeline.end_sessions('eve')"))
        yield b"\r\n--B--\r\n"

    assert site.send("POST", "/history", data=parts(), headers=headers) == 403
    assert stored(connection) == []


def test_an_upload_that_broke_off_or_failed_says_so(site: Site, connection: Connection) -> None:
    connection.execute(t.history_imports.insert().values(user_id="eve", status="open"))
    assert "broke off" in site.fetch("GET", "/history").text
    failed = {"status": "failed", "finished_at": func.now(), "error_message": "Try <again>."}
    connection.execute(t.history_imports.update().values(failed))
    assert "Try &lt;again&gt;." in site.fetch("GET", "/history").text
    assert site.fetch("GET", "/history/status").json()["state"] == "failed"


def test_an_upload_without_room_for_its_temporary_file_is_refused(
    site: Site, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    status, said = upload(site, ("a.json", file_of(ROWS) + b" " * 2_000_000))
    assert (status, "There is no room for this upload" in said) == (503, True)
    assert stored(connection) == []


def test_a_history_of_many_batches_keeps_the_limits_of_a_batch(
    site: Site, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "BATCH_ROWS", 2)
    assert upload(site, ("a.json", file_of(ROWS))) == (303, "")
    rows = select(t.history_import_batches.c.row_count)
    assert connection.scalars(rows.order_by(t.history_import_batches.c.number)).all() == [2, 2, 1]
    # Names as long as they may be, of characters that take the most bytes.
    long = [
        extended_row(END + n * MINUTE, n, master_metadata_track_name="\x01\U0001f3b5" * 500)
        for n in range(3_000)
    ]
    monkeypatch.setattr(history, "BATCH_ROWS", 5_000)
    connection.execute(t.history_imports.delete())
    assert upload(site, ("a.json", file_of(long))) == (303, "")
    assert sum(connection.scalars(rows)) == 3_000
