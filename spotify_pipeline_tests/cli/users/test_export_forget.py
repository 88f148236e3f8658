"""People take everything that is stored about them, and leave nothing behind."""

import csv
import io
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from zipfile import ZipFile

import pytest
from sqlalchemy import Engine, func, insert, select, text, update

from spotify_pipeline.app import forget_user, register_user
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.cli.conftest import Run, only_line

TRICKY = 'Ol’ "quoted", 雨\nזמר'


@pytest.fixture
def mira(run: Run, engine: Engine) -> str:
    """A user with a token, a play of a tricky track by two artists, and a day."""
    run("users", "add", "mira", "--refresh-token-stdin", stdin="canary-refresh-token\n")
    run("users", "add", "otto")
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with engine.begin() as conn:
        conn.execute(
            insert(t.artists),
            [
                {"spotify_id": artist_id, "name": f"{artist_id} {TRICKY}"}
                for artist_id in ("a1", "a2", "a3")
            ],
        )
        conn.execute(
            insert(t.tracks),
            [
                {
                    "spotify_id": track_id,
                    "name": TRICKY,
                    "duration_ms": 200_000,
                    "artist_ids": artists,
                    "album_name": "",
                    "album_id": None,
                }
                for track_id, artists in (("t1", ["a1", "a2"]), ("t2", ["a3"]))
            ],
        )
        for user_id, track in (("mira", "t1"), ("otto", "t2")):
            conn.execute(
                insert(t.plays).values(user_id=user_id, played_at=at, track_id=track, source="api")
            )
    return "mira"


def exported(run: Run, user_id: str, path: Path) -> dict[str, str]:
    result = run("users", "export", user_id, "--out", str(path))
    assert result.exit_code == 0, result.output
    with ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def rows(file: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file, newline="")))


def test_an_export_has_a_file_for_every_table_with_user_data(
    run: Run, mira: str, tmp_path: Path
) -> None:
    files = exported(run, mira, tmp_path / "mira.zip")
    with_user_data = {table.name for table in t.metadata.sorted_tables if "user_id" in table.c}
    expected = with_user_data - {"forgotten"} | {"tracks", "artists"}
    assert files.keys() == {f"{name}.csv" for name in expected} | {"README.txt"}


def test_texts_come_back_from_an_export_as_they_were(run: Run, mira: str, tmp_path: Path) -> None:
    files = exported(run, mira, tmp_path / "mira.zip")
    (track,) = rows(files["tracks.csv"])
    assert track["name"] == TRICKY
    assert track["artist_ids"] == '["a1", "a2"]'
    (play,) = rows(files["plays.csv"])
    assert play["played_at"] == "2026-03-01T12:00:00Z"
    assert [row["spotify_id"] for row in rows(files["artists.csv"])] == ["a1", "a2"]


@pytest.mark.parametrize("beginning", [*"=+-@\t\r\n'", *"\uff1d\uff0b\uff0d\uff20"])
def test_no_cell_of_an_export_is_a_formula_and_none_is_lost(
    run: Run, mira: str, engine: Engine, tmp_path: Path, beginning: str
) -> None:
    name = f'{beginning}HYPERLINK("http://evil.example")'
    with engine.begin() as conn:
        conn.execute(update(t.tracks).values(name=name, album_name=f"x{name};;{name};y"))
    files = exported(run, mira, tmp_path / "mira.zip")
    (track,) = rows(files["tracks.csv"])
    assert track["name"] == f"'{name}"
    # With a semicolon between columns, as in much of Europe, the second part is a cell.
    assert track["album_name"] == f"x{name};;'{name};y"
    assert "takes the first apostrophe of each\npart away" in files["README.txt"]
    cells = [
        cell
        for name, file in files.items()
        if name != "README.txt"
        for row in rows(file)
        for cell in row.values()
    ]
    assert not any(cell[:1] in "=+@\t\r\n" and cell for cell in cells)


def test_invisible_characters_are_exported_and_the_readme_warns_of_them(
    run: Run, mira: str, engine: Engine, tmp_path: Path
) -> None:
    name = "a\x1b[2J\x9b\x85\x7f\u2028\u202egnp.\u2066b"
    with engine.begin() as conn:
        conn.execute(update(t.tracks).values(name=name))
    files = exported(run, mira, tmp_path / "mira.zip")
    assert rows(files["tracks.csv"])[0]["name"] == name
    assert "also control characters" in files["README.txt"]


def test_an_export_distinguishes_null_from_empty(run: Run, mira: str, tmp_path: Path) -> None:
    line = exported(run, mira, tmp_path / "mira.zip")["tracks.csv"]
    heading = line.split("\r\n")[0].split(",")
    values = dict(zip(heading[4:6], line.rsplit('"]"', 1)[1].split(",")[1:3], strict=True))
    assert values == {"album_id": "", "album_name": '""'}


def test_the_readme_of_an_export_explains_every_table_and_column(
    run: Run, mira: str, tmp_path: Path
) -> None:
    readme = exported(run, mira, tmp_path / "mira.zip")["README.txt"]
    for table in (t.plays, t.users, t.daily_listening, t.tracks):
        assert f"{table.name}.csv" in readme
        assert str(table.comment) in readme
        assert all(f"  {column.name}: {column.comment}" in readme for column in table.columns)


def test_an_export_holds_neither_tokens_nor_data_of_other_users(
    run: Run, mira: str, tmp_path: Path
) -> None:
    everything = "".join(exported(run, mira, tmp_path / "mira.zip").values())
    assert "otto" not in everything
    assert "t2" not in everything
    assert (
        rows(exported(run, mira, tmp_path / "again.zip")["user_tokens.csv"])[0]
        .keys()
        .isdisjoint({"sealed_refresh_token", "sealed_access_token", "key_id"})
    )


def test_an_export_has_mode_0600_and_replaces_no_file(run: Run, mira: str, tmp_path: Path) -> None:
    path = tmp_path / "mira.zip"
    before = os.umask(0)
    try:
        exported(run, mira, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.read_bytes()
    result = run("users", "export", mira, "--out", str(path))
    assert result.exit_code == 2
    assert "exists already" in only_line(result)
    assert path.read_bytes() == written
    assert [one.name for one in tmp_path.glob("*mira*")] == ["mira.zip"]


def test_exporting_or_forgetting_an_unknown_user_is_refused(
    run: Run, mira: str, tmp_path: Path
) -> None:
    for arguments in (["export", "nobody", "--out", str(tmp_path / "x.zip")], ["forget", "nobody"]):
        result = run("users", *arguments)
        assert result.exit_code == 2
        assert "There is no user nobody" in only_line(result)
    assert not (tmp_path / "x.zip").exists()


def test_forgetting_deletes_every_row_of_the_user_and_of_no_other(
    run: Run, mira: str, engine: Engine
) -> None:
    assert run("users", "forget", mira, stdin="n\n").exit_code == 1
    nobody_there = run("users", "forget", mira)
    assert nobody_there.exit_code == 2
    assert "give the answer as an option" in nobody_there.stderr
    result = run("users", "forget", mira, "--yes")
    assert result.exit_code == 0
    with engine.connect() as conn:
        for table in t.metadata.sorted_tables:
            if "user_id" in table.c and table is not t.forgotten:
                left = select(func.count()).where(table.c.user_id == mira)
                assert conn.scalar(left) == 0, table.name
        assert conn.scalar(select(func.count()).select_from(t.plays)) == 1
        assert conn.scalars(select(t.forgotten.c.user_id)).all() == [mira]


def test_deleting_a_users_row_by_any_statement_leaves_a_tombstone(engine: Engine) -> None:
    with engine.begin() as conn:
        for user_id in ("anna", "ben"):
            register_user(conn, user_id, None, None)
        forget_user(conn, "anna")
        conn.execute(text("DELETE FROM spotify_pipeline.users"))
        assert conn.scalars(select(t.forgotten.c.user_id)).all() == ["anna", "ben"]
