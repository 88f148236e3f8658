"""No secret is stored in clear text after syncs that log everything and fail in many ways.

The only exceptions are in ALLOWED: two files readable only by their owner.
"""

import gzip
import os
import stat
import tempfile
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, text

from spotify_pipeline.redaction import MASK
from spotify_pipeline.sync.admin.keys import KEY_FILE
from spotify_pipeline_tests.canaries import Canaries
from spotify_pipeline_tests.crashes.secret_scenario import SecretScenario, run_secret_scenario

pytestmark = pytest.mark.xdist_group("daemon")

ALLOWED = {
    # Needed to decrypt tokens; doctor complains if others can read it.
    KEY_FILE: {"token key"},
    # The embedded server's random password; every process of the home logs in with it.
    "postgres/password": {"database password"},
}
SECRET = "canary-that-must-not-leak"


@pytest.fixture(scope="module")
def case() -> Iterator[SecretScenario]:
    # Next to the tests' own server: on a RAM disk, if available, it takes half the time.
    with tempfile.TemporaryDirectory(dir=os.environ["SPOTIFY_PIPELINE_TEST_HOME"]) as folder:
        yield run_secret_scenario(Path(folder) / "home")


def test_every_leak_scenario_was_executed(case: SecretScenario) -> None:
    names = " ".join(case.canaries.names)
    for name in ("token 9", "token key", "database password", "client secret", "code"):
        assert name in names
    calls = set(case.calls)
    assert {("token", 200), ("token", 400), ("me", 200)} < calls
    assert {("recently_played", 401), ("top_artists", 403), ("top_tracks", 502)} < calls
    for name in ("graphql", "run"):
        assert "RuntimeError: Authorization: Basic " + MASK in case.outputs[name], name
    assert "It fails, with " + MASK in case.outputs["sync"]
    assert "POST /api/token" in case.outputs["run"]  # proves that DEBUG is on
    assert "UPDATE spotify_pipeline.user_tokens" in case.outputs["run"]
    assert "kenji is connected to Spotify" in case.outputs["connect"]
    assert "multiprocessing.forkserver" in case.outputs["command lines"]


def test_no_row_of_either_database_holds_a_secret(case: SecretScenario) -> None:
    assert case.in_rows == {}


def test_no_file_of_the_home_holds_a_secret_but_the_two_that_are_for_it(
    case: SecretScenario,
) -> None:
    found = case.canaries.found_in_files(case.home.rglob("*"))
    assert {str(path.relative_to(case.home)): names for path, names in found.items()} == ALLOWED
    for name in ALLOWED:
        assert stat.S_IMODE((case.home / name).stat().st_mode) == 0o600
    assert (case.home / "mira.zip").exists()


def test_no_command_page_or_response_of_dagster_shows_a_secret(case: SecretScenario) -> None:
    assert {
        name: found
        for name, outputs in case.outputs.items()
        if (found := case.canaries.found_in(outputs))
    } == {}


@pytest.fixture
def canaries() -> Canaries:
    canaries = Canaries()
    canaries.add("planted", SECRET)
    return canaries


@pytest.mark.parametrize(
    "written",
    [
        f"2026-03-04 INFO token={SECRET}\n".encode(),
        f"Authorization: Basic {b64encode(f'the-app:{SECRET}'.encode()).decode()}".encode(),
        b"?x=" + SECRET.encode().hex().encode(),
        zlib.compress(SECRET.encode()),
        gzip.compress(b"a log: " + SECRET.encode(), mtime=0),
        b"\xff\x00" + SECRET.encode() + b"\xfe",
    ],
)
def test_a_secret_in_a_log_is_found(canaries: Canaries, tmp_path: Path, written: bytes) -> None:
    log = tmp_path / "logs" / "daemon.log"
    log.parent.mkdir()
    log.write_bytes(b"nothing")
    assert canaries.found_in_files(tmp_path.rglob("*")) == {}
    log.write_bytes(written)
    assert canaries.found_in_files(tmp_path.rglob("*")) == {log: {"planted"}}


def test_a_secret_in_an_export_or_in_a_files_name_is_found(
    canaries: Canaries, tmp_path: Path
) -> None:
    export, named = tmp_path / "mira.zip", tmp_path / f"{SECRET}.log"
    with zipfile.ZipFile(export, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plays.csv", f"a,{SECRET}")
    named.touch()
    planted = {"planted"}
    assert canaries.found_in_files(tmp_path.rglob("*")) == {export: planted, named: planted}


@pytest.mark.parametrize("column", ["text", "jsonb", "bytea"])
def test_a_secret_in_a_row_is_found(
    canaries: Canaries, connection: Connection, database: URL, column: str
) -> None:
    connection.execute(text(f"CREATE TABLE spotify_pipeline.odd (x {column})"))
    assert canaries.found_in_rows(database) == {}
    value = zlib.compress(SECRET.encode()) if column == "bytea" else f'["{SECRET}"]'
    connection.execute(text("INSERT INTO spotify_pipeline.odd VALUES (:x)"), {"x": value})
    assert canaries.found_in_rows(database) == {"odd": {"planted"}}
