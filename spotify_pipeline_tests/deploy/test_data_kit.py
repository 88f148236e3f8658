"""The dbt project and the data dictionary are what the tables' comments say."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from click.testing import CliRunner
from sqlalchemy import URL, Engine, text

from spotify_pipeline.cli.operate.schema import ASSETS
from spotify_pipeline.cli.program import program
from spotify_pipeline.defs.metadata import TABLES
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.roles import ANALYST_READABLE
from spotify_pipeline.storage.tables.dictionary import described_tables
from spotify_pipeline_tests.app.conftest import autocommit

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "deploy" / "dbt"
SOURCES = PROJECT / "models" / "sources.yml"
DBT = ROOT / ".venv" / "dbt" / "bin" / "dbt"


@pytest.mark.parametrize(
    ("form", "file"), [("--dbt", SOURCES), ("--markdown", ROOT / "docs" / "data-dictionary.md")]
)
def test_the_generated_dictionary_and_dbt_sources_are_fresh(form: str, file: Path) -> None:
    result = CliRunner().invoke(program, ["schema", form])
    assert result.exit_code == 0
    renew = f"spotify-pipeline schema {form} > {file.relative_to(ROOT)}"
    assert result.output == file.read_text(), f"{file.name} is stale, renew it with: {renew}"


def test_schema_without_a_form_is_refused() -> None:
    result = CliRunner().invoke(program, ["schema"])
    assert result.exit_code == 2
    assert "--dbt or --markdown" in result.output


def test_the_dictionary_has_the_columns_types_and_comments_of_the_database(database: URL) -> None:
    engine = make_engine(database)
    with engine.connect() as conn:
        rows = conn.execute(
            text(
                "SELECT c.relname, obj_description(c.oid), a.attname,"
                " format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum)"
                " FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid"
                " WHERE c.relnamespace = 'spotify_pipeline'::regnamespace"
                " AND c.relname = ANY(:names) AND a.attnum > 0 AND NOT a.attisdropped"
            ),
            {"names": list(ANALYST_READABLE)},
        )
        stored = {tuple(row) for row in rows}
    engine.dispose()
    assert stored == {
        (table.name, table.comment, column.name, column.type, column.comment)
        for table in described_tables(ANALYST_READABLE)
        for column in table.columns
    }


def test_every_source_names_the_asset_that_fills_it() -> None:
    assert {name: TABLES[asset].name for name, asset in ASSETS.items()} == {n: n for n in ASSETS}


@pytest.fixture
def analyst(_admin: Engine, database: URL) -> Iterator[URL]:
    """A login of spotify_analyst."""
    name = f"ana_{uuid4().hex}"
    with autocommit(_admin) as server:
        server.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'ana' IN ROLE spotify_analyst"))
    yield database.set(username=name, password="ana")
    with autocommit(_admin) as server:
        server.execute(text(f"DROP ROLE {name}"))


@pytest.mark.dbt
def test_dbt_parses_the_project_and_reads_every_column_of_every_source_as_an_analyst(
    analyst: URL, tmp_path: Path
) -> None:
    (source,) = yaml.safe_load(SOURCES.read_text())["sources"]
    assert {table["name"] for table in source["tables"]} == set(ANALYST_READABLE)
    reads = " union all ".join(
        f"(select count(*) from (select {', '.join(column['name'] for column in table['columns'])}"
        f" from {{{{ source('spotify_pipeline', '{table['name']}') }}}}) as t)"
        for table in source["tables"]
    )
    environ = os.environ | {
        "PGHOST": str(analyst.host),
        "PGPORT": str(analyst.port),
        "PGUSER": str(analyst.username),
        "PGPASSWORD": "ana",
        "PGDATABASE": str(analyst.database),
    }

    # Which parses the project first.
    done = subprocess.run(
        [
            *(DBT, "--warn-error", "--no-partial-parse", "show", "--inline", reads),
            *("--target-path", str(tmp_path / "target"), "--log-path", str(tmp_path / "logs")),
        ],
        cwd=PROJECT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
