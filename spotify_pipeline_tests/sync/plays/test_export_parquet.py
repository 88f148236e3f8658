"""The exported Parquet files, read by DuckDB, are daily_listening exactly."""

from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner
from pyarrow import parquet
from sqlalchemy import text

from spotify_pipeline.cli.program import program
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

USERS = {"anna": "Pacific/Kiritimati", "ben": "America/St_Johns"}
PER_DAY = (
    "SELECT user_id, local_date, sum(ms_listened)::bigint, count(*)"
    " FROM read_parquet('{}/listens/*/*.parquet') GROUP BY ALL"
)


def test_duckdb_finds_every_day_as_it_is_stored_and_no_forgotten_user(
    scenario: Scenario, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for user_id, zone in USERS.items():
        scenario.connect(user_id, zone)
    scenario.sync_well(*USERS)

    def exported(*options: str) -> set[tuple[object, ...]]:
        command = ["export", "--parquet", str(tmp_path), *options]
        result = CliRunner().invoke(program, command, prog_name="spotify-pipeline")
        assert result.exit_code == 0, result.output
        return set(duckdb.sql(PER_DAY.format(tmp_path)).fetchall())

    def stored(*users: str) -> set[tuple[object, ...]]:
        rows = [row for user_id in users for row in scenario.rows(t.daily_listening, user_id)]
        return {(r["user_id"], r["date"], r["listened_ms"], r["plays"]) for r in rows}

    assert exported() == stored(*USERS)
    assert exported("--user", "ben") == stored("ben")
    last = max(date for _, date, *_ in stored(*USERS))
    assert exported("--since", str(last)) == {d for d in stored(*USERS) if d[1] == last}
    with scenario.pipeline.engine.begin() as conn:
        conn.execute(text("SELECT spotify_pipeline.forget_user('ben')"))
    assert exported() == stored("anna")
    (file, *_) = sorted((tmp_path / "listens").rglob("*.parquet"))
    field = parquet.read_schema(file).field("ms_listened")
    assert field.metadata[b"description"].startswith(b"Milliseconds heard")
    assert not list(tmp_path.glob(".partial-*"))
