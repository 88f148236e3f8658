"""A login of spotify_analyst reads what users listened to, and can do nothing else."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.settings import ConfigurationError, load_settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.roles import ANALYST_CONTRACT, ANALYST_READABLE, rights
from spotify_pipeline_tests.app.conftest import autocommit
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.storage.rows import add_user, cause

ROLE = "spotify_analyst"
HIDDEN = sorted({table.name for table in t.metadata.sorted_tables} - set(ANALYST_READABLE))
DENIED = "42501"


@pytest.fixture(scope="module")
def analyst(_admin: Engine, _template: str) -> Iterator[Connection]:
    """One login for all probes, which change nothing."""
    name = f"ana_{uuid4().hex}"
    with autocommit(_admin) as server:
        server.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'ana' IN ROLE {ROLE}"))
    with temporary_database(_admin, _template) as url:
        owner = make_engine(url)
        with owner.begin() as connection:
            add_user(connection)
        owner.dispose()
        engine = make_engine(url.set(username=name, password="ana"))
        with autocommit(engine) as connection:
            yield connection
        engine.dispose()
    with autocommit(_admin) as server:
        server.execute(text(f"DROP ROLE {name}"))


def test_the_analyst_has_exactly_the_rights_of_the_contract(
    analyst: Connection,
) -> None:
    assert rights(analyst, ROLE) == ANALYST_CONTRACT
    assert rights(analyst, str(analyst.engine.url.username)) == ANALYST_CONTRACT


@pytest.mark.parametrize("name", ANALYST_READABLE)
def test_the_analyst_reads_listening_data(analyst: Connection, name: str) -> None:
    analyst.exec_driver_sql(f"SELECT * FROM spotify_pipeline.{name}").all()


@pytest.mark.parametrize(
    "statement",
    [
        *(f"SELECT 1 FROM spotify_pipeline.{name}" for name in HIDDEN),
        "SELECT 1 FROM spotify_pipeline.sync_status",
        "SELECT 1 FROM spotify_pipeline.account_block",
        "SELECT 1 FROM spotify_pipeline.alembic_version",
        "SELECT display_name FROM spotify_pipeline.users",
        "SELECT spotify_pipeline.request_sync('ada')",
        "SELECT spotify_pipeline.forget_user('ada')",
        "SELECT spotify_pipeline.register_user('eve')",
        "SELECT spotify_pipeline.disconnect_user('ada')",
        "INSERT INTO spotify_pipeline.plays SELECT * FROM spotify_pipeline.plays",
        "INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES ('ada')",
        "UPDATE spotify_pipeline.daily_listening SET minutes = 0",
        "DELETE FROM spotify_pipeline.plays",
        "TRUNCATE spotify_pipeline.coverage",
        "SELECT * FROM spotify_pipeline.plays FOR UPDATE",
        "CREATE TABLE spotify_pipeline.mine (a int)",
        "CREATE VIEW spotify_pipeline.mine AS SELECT 1",
        "CREATE SCHEMA mine",
        "DROP VIEW spotify_pipeline.listens",
        "ALTER TABLE spotify_pipeline.plays ADD a int",
        "GRANT SELECT ON spotify_pipeline.users TO PUBLIC",
        "SET ROLE spotify_app",
        "COPY spotify_pipeline.plays TO '/tmp/plays'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
def test_all_other_statements_are_denied(analyst: Connection, statement: str) -> None:
    with pytest.raises(DBAPIError) as refused:
        analyst.exec_driver_sql(statement)
    assert cause(refused.value).sqlstate in (DENIED, "0LP01")


def test_no_column_that_it_reads_holds_a_name_or_a_secret_of_a_user(analyst: Connection) -> None:
    columns = set(
        analyst.scalars(
            text(
                "SELECT column_name FROM information_schema.columns"
                " WHERE table_schema = 'spotify_pipeline'"
            )
        )
    )
    assert {"user_id", "ms_listened"} <= columns
    assert not {"display_name", "account_id", "sealed_refresh_token", "key_id"} & columns


def test_app_and_analyst_need_two_roles() -> None:
    with pytest.raises(ConfigurationError, match="SPOTIFY_PIPELINE_ANALYST_ROLE"):
        load_settings({"SPOTIFY_PIPELINE_ANALYST_ROLE": "spotify_app"})
