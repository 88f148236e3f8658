"""`backup` and `restore`: every row of both databases comes back, and the keys stay apart."""

import stat

import pytest
from sqlalchemy import text

from spotify_pipeline.cli.operate.backup import DAGSTERS, OURS
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.roles import CONTRACT, rights
from spotify_pipeline_tests.cli.conftest import only_line, with_password
from spotify_pipeline_tests.storage.postgres.test_upgrade import add_rows, columns_of, read_all
from spotify_pipeline_tests.storage.rows import add_top


@pytest.fixture
def runs(dagster):
    """A table of Dagster's, with a row; it is what dagster.dump has to bring back."""
    engine = make_engine(dagster, settings={})
    with engine.begin() as conn:
        # Other tests may have made all of Dagster's tables in this database.
        ours = conn.scalar(text("SELECT to_regclass('runs')")) is None
        if ours:
            conn.execute(text("CREATE TABLE runs (run_id text)"))
        conn.execute(text("CREATE TABLE kept AS SELECT 'run 1' AS run_id"))
    yield engine
    with engine.begin() as conn:
        conn.execute(text("DROP TABLE IF EXISTS kept"))
        if ours:
            conn.execute(text("DROP TABLE runs"))
    engine.dispose()


def test_every_row_of_both_databases_is_restored_into_an_empty_one(
    run, environ, runs, connection, empty_database, tmp_path
):
    add_rows(connection)
    add_top(connection, "artists", "ada", 1, "artist")
    made = run("backup", "--to", str(tmp_path / "backups"))
    assert made.exit_code == 0, made.output
    (folder,) = (tmp_path / "backups").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == {OURS, DAGSTERS}
    with runs.begin() as conn:
        conn.execute(text("DROP TABLE kept"))
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(empty_database))
    restored = run("restore", str(folder))
    assert restored.exit_code == 0, restored.output
    with runs.connect() as conn:
        assert conn.scalar(text("SELECT run_id FROM kept")) == "run 1"
    engine = make_engine(empty_database)
    with engine.connect() as conn:
        before = read_all(connection, columns_of(connection))
        assert read_all(conn, columns_of(conn)) == before
        assert len(before["plays"]) == 3
        assert rights(conn, "spotify_app") == CONTRACT
    engine.dispose()
    again = run("restore", str(folder))
    assert again.exit_code == 2
    assert "--replace" in only_line(again)
    assert run("restore", "--replace", str(folder)).exit_code == 0


def test_the_newest_n_stay_and_nothing_else_is_deleted(run, dagster, tmp_path):
    to = tmp_path / "backups"
    for day in range(1, 5):
        older = to / f"spotify_pipeline-2026-01-0{day}T000000Z"
        older.mkdir(parents=True)
        (older / OURS).touch()
    (to / "spotify_pipeline-mine-Z").mkdir()
    result = run("backup", "--to", str(to), "--keep", "3")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in to.iterdir())
    assert names[:2] == [f"spotify_pipeline-2026-01-0{day}T000000Z" for day in (3, 4)]
    assert names[3:] == ["spotify_pipeline-mine-Z"]


def test_the_key_file_goes_elsewhere_or_nowhere(run, environ, dagster, tmp_path):
    environ.delenv("SPOTIFY_PIPELINE_TOKEN_KEYS")
    keys = tmp_path / "home" / "token-keys"
    keys.parent.mkdir()
    keys.write_text("the keys")
    to, safe = tmp_path / "backups", tmp_path / "safe"
    refused = run("backup", "--to", str(to), "--keys-to", str(to / "keys"))
    assert (refused.exit_code, to.exists()) == (2, False)
    assert "not in it" in run("backup", "--to", str(to)).stdout
    run("backup", "--to", str(to), "--keys-to", str(safe))
    assert (safe / "token-keys").read_text() == "the keys"
    assert stat.S_IMODE((safe / "token-keys").stat().st_mode) == 0o600
    assert [path for path in to.rglob("*") if "key" in path.name] == []


def test_a_backup_that_fails_deletes_and_leaves_nothing(
    run, environ, connection, dagster, tmp_path
):
    to = tmp_path / "backups"
    assert run("backup", "--to", str(to)).exit_code == 0
    before = sorted(to.rglob("*"))
    # A row of a table that the login may not read: pg_dump fails in the middle.
    connection.exec_driver_sql("DROP ROLE IF EXISTS backup_reader")
    connection.exec_driver_sql("CREATE ROLE backup_reader LOGIN PASSWORD 'canary'")
    connection.exec_driver_sql("GRANT USAGE ON SCHEMA spotify_pipeline TO backup_reader")
    connection.exec_driver_sql("GRANT SELECT ON spotify_pipeline.alembic_version TO backup_reader")
    url = connection.engine.url.set(username="backup_reader", password="canary")
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(url))
    try:
        failed = run("backup", "--to", str(to), "--keep", "1")
    finally:
        connection.exec_driver_sql("DROP OWNED BY backup_reader; DROP ROLE backup_reader")
    assert failed.exit_code == 1
    assert "permission denied" in only_line(failed)
    assert "canary" not in failed.output
    assert sorted(to.rglob("*")) == before


def test_a_backup_without_a_database_creates_nothing(run, environ, tmp_path):
    environ.delenv("SPOTIFY_PIPELINE_DATABASE_URL")
    result = run("backup", "--to", str(tmp_path / "backups"))
    assert result.exit_code == 2
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "backups").exists()
