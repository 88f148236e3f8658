"""init-db creates or upgrades, says what it did, and can be repeated."""

from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from spotify_pipeline.storage.postgres import roles
from spotify_pipeline.storage.postgres.schema import newest_revision
from spotify_pipeline_tests.cli.conftest import only_line, with_password


@pytest.fixture
def empty(environ, empty_database, dagster):
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(empty_database))
    engine = create_engine(empty_database)
    yield engine
    engine.dispose()


def test_init_db_creates_the_schema_and_reports_an_existing_one(run, empty):
    first = run("init-db")
    assert first.exit_code == 0
    assert first.stdout.startswith(
        f"Created the schema spotify_pipeline at revision {newest_revision()}."
    )
    assert run("users", "list").exit_code == 0
    second = run("init-db")
    assert second.exit_code == 0
    assert "already at revision" in second.stdout


def test_a_newer_database_is_left_alone(process, engine):
    with engine.begin() as conn:
        conn.execute(text("UPDATE spotify_pipeline.alembic_version SET version_num = '9999'"))
    for command in ("init-db", "dev"):
        result = process(command)
        assert result.returncode == 2
        assert "upgrade spotify_pipeline" in only_line(result)


def test_a_login_without_the_right_gets_a_clear_error(run, environ, empty, empty_database):
    role = f"{empty_database.database}_reader"
    with empty.begin() as conn:
        conn.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'canary'"))
    url = empty_database.set(username=role, password="canary")
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(url))
    try:
        result = run("init-db")
    finally:
        with empty.begin() as conn:
            conn.execute(text(f"DROP ROLE {role}"))
    assert result.exit_code == 1
    assert "lacks a right" in only_line(result)
    assert "canary" not in result.output


def test_init_db_creates_the_app_role_under_the_configured_name(run, environ, empty):
    role = f"App-{uuid4().hex}"
    environ.setenv("SPOTIFY_PIPELINE_APP_ROLE", role)
    try:
        assert run("init-db").exit_code == 0
        with empty.connect() as conn:
            assert roles.rights(conn, role) == roles.CONTRACT
    finally:
        with empty.begin() as conn:
            conn.exec_driver_sql(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_init_db_without_createrole_prints_the_statement_and_creates_the_schema(
    run, environ, empty, empty_database
):
    owner, role = f"owner_{uuid4().hex}", f"app_{uuid4().hex}"
    with empty.begin() as conn:
        conn.execute(text(f"CREATE ROLE {owner} LOGIN PASSWORD 'p'"))
        conn.execute(text(f"CREATE SCHEMA spotify_pipeline AUTHORIZATION {owner}"))
    url = empty_database.set(username=owner, password="p")
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(url))
    environ.setenv("SPOTIFY_PIPELINE_APP_ROLE", role)
    page = url.set(username=f"page_{uuid4().hex}")
    environ.setenv("SPOTIFY_PIPELINE_WEB_DATABASE_URL", with_password(page))
    statement = f'CREATE ROLE "{role}" NOLOGIN'
    try:
        result = run("init-db")
        assert result.exit_code == 0, result.output
        assert f"{statement};" in result.stdout
        assert f"There is no login {page.username} for the web page" in result.stdout
        assert run("users", "list").exit_code == 0
        with empty.begin() as conn:
            conn.exec_driver_sql(statement)
        assert statement not in run("init-db").stdout
        with empty.connect() as conn:
            assert roles.rights(conn, role) == roles.CONTRACT
    finally:
        with empty.begin() as conn:
            conn.exec_driver_sql(f"DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}")
            conn.exec_driver_sql(f'DROP ROLE IF EXISTS "{role}"')


def test_dagsters_database_is_made_on_a_server_of_ones_own_closed_to_others(
    run, environ, database, engine
):
    with engine.connect() as conn:
        if conn.scalar(text("SELECT count(*) FROM pg_database WHERE datname = 'dagster'")):
            pytest.skip("this server has a database named dagster")
    environ.delenv("DAGSTER_PG_URL", raising=False)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        try:
            assert "Created the database dagster" in run("init-db").stdout
            open_to_all = text(
                "SELECT has_database_privilege('public', 'dagster', 'CONNECT, TEMPORARY')"
            )
            assert conn.scalar(open_to_all) is False
            assert "dagster" not in run("init-db").stdout
        finally:
            conn.execute(text("DROP DATABASE IF EXISTS dagster"))


def test_a_dry_run_prints_the_plan_and_changes_nothing(run, environ, empty, tmp_path):
    said = run("init-db", "--dry-run")
    assert said.exit_code == 0
    assert (
        f"Would create the schema spotify_pipeline at revision {newest_revision()}" in said.stdout
    )
    with empty.connect() as conn:
        assert conn.scalar(text("SELECT to_regnamespace('spotify_pipeline')")) is None
    assert run("init-db").exit_code == 0
    assert "would only write its functions again" in run("init-db", "--dry-run").stdout
    with empty.begin() as conn:
        conn.execute(text("UPDATE spotify_pipeline.alembic_version SET version_num = '9999'"))
    assert run("init-db", "--dry-run").exit_code == 2
    environ.delenv("SPOTIFY_PIPELINE_DATABASE_URL")
    assert "Would create an embedded Postgres" in run("init-db", "--dry-run").stdout
    assert not (tmp_path / "home").exists()
