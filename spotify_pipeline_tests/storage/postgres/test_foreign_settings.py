"""Foreign settings of a server, database, role or environment change nothing for us."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import URL, Engine, text

from spotify_pipeline.storage.postgres import schema
from spotify_pipeline.storage.postgres.engine import (
    SESSION,
    UnsupportedServer,
    make_engine,
    normalise_url,
)
from spotify_pipeline.storage.postgres.roles import give_rights
from spotify_pipeline.storage.work.api_budget import read_state

HOSTILE = {
    "datestyle": "'German, DMY'",
    "intervalstyle": "'iso_8601'",
    "timezone": "'Asia/Tokyo'",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "search_path": "app, pg_catalog",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "bytea_output": "'escape'",
    "extra_float_digits": "-10",
    "quote_all_identifiers": "on",
    "statement_timeout": "'40ms'",
    "lock_timeout": "'40ms'",
    "idle_session_timeout": "'40ms'",
    "restrict_nonsystem_relation_kind": "'view'",
}
ENVIRONMENT = {"PGDATESTYLE": "German", "PGTZ": "Asia/Tokyo", "PGOPTIONS": "-c array_nulls=off"}


# What an app may have in its own schema, under the names that a session of ours begins with.
SHADOWS = (
    "CREATE SCHEMA app",
    "CREATE DOMAIN app.text AS integer",
    "CREATE FUNCTION app.current_setting(pg_catalog.text, boolean) RETURNS pg_catalog.text"
    " LANGUAGE sql AS 'SELECT NULL::pg_catalog.text'",
    "CREATE FUNCTION app.current_setting(pg_catalog.text) RETURNS pg_catalog.text"
    " LANGUAGE sql AS 'SELECT ''replica''::pg_catalog.text'",
    "CREATE FUNCTION app.set_config(pg_catalog.text, pg_catalog.text, boolean)"
    " RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT NULL::pg_catalog.text'",
    "CREATE FUNCTION app.pg_backend_pid() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
)


def set_for_all(url: URL, settings: dict[str, str]) -> None:
    """ALTER DATABASE … SET, as far as this version of Postgres knows the setting."""
    engine = make_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for name, value in settings.items():
            if conn.scalar(text("SELECT current_setting(:name, true)"), {"name": name}) is not None:
                conn.execute(text(f'ALTER DATABASE "{url.database}" SET {name} = {value}'))
    engine.dispose()


@pytest.fixture
def hostile(empty_database: URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine on an empty database with every default turned round, in the environment too."""
    maker = make_engine(empty_database)
    with maker.begin() as conn:
        for statement in SHADOWS:
            conn.execute(text(statement))
    maker.dispose()
    set_for_all(empty_database, HOSTILE)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    engine = make_engine(empty_database)
    yield engine
    engine.dispose()


def test_hostile_defaults_reach_no_session_of_ours(hostile: Engine) -> None:
    names = [*SESSION, "transaction_isolation", "transaction_read_only"]
    wanted = {**SESSION, "transaction_isolation": "read committed", "transaction_read_only": "off"}
    for isolation in ("READ COMMITTED", "AUTOCOMMIT", "READ COMMITTED"):
        with hostile.connect().execution_options(isolation_level=isolation) as conn:
            for name in names:
                found = conn.scalar(text("SELECT current_setting(:name, true)"), {"name": name})
                assert found is None or name.startswith("tcp_") or found == _shown(wanted[name])
            assert conn.scalar(text("SELECT ARRAY[NULL]::text[]")) == [None]
            assert conn.scalar(text("SELECT CAST('{NULL}' AS text[])")) == [None]
            assert conn.scalar(text("SELECT interval '26 hours'")) == timedelta(hours=26)
            instant = text("SELECT timestamptz '2026-02-03 04:05:06+00'")
            assert conn.scalar(instant) == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_the_schema_is_made_and_used_under_hostile_defaults(hostile: Engine) -> None:
    schema.init_db(hostile)
    schema.init_db(hostile)
    give_rights(hostile, "spotify_app")
    schema.check_revision(hostile)
    with hostile.begin() as conn:
        conn.execute(text("SELECT spotify_pipeline.register_user('mira', 'Europe/Berlin', NULL)"))
        assert read_state(conn).blocked_until is None


def _shown(value: str) -> str:
    return {"60s": "1min"}.get(value, value)


@pytest.mark.parametrize(
    "form", ["postgres://u@%2Ftmp%2Fx:5433/app", "postgresql://u@%2ftmp%2fx:5433/app"]
)
def test_a_socket_directory_is_understood_where_libpq_takes_it(form: str) -> None:
    url = normalise_url(form)
    named = normalise_url("postgresql://u@/app?host=/tmp/x&port=5433")
    assert url == named
    for driver in ("psycopg", "psycopg2"):
        again = normalise_url(url.set(drivername=f"postgresql+{driver}").render_as_string())
        assert again == named
    _, options = url.get_dialect()().create_connect_args(url)
    assert (options["host"], options["port"]) == ("/tmp/x", "5433")


def test_a_database_whose_triggers_are_off_is_not_used(empty_database: URL) -> None:
    set_for_all(empty_database, {"session_replication_role": "'replica'"})
    engine = make_engine(empty_database)
    with pytest.raises(UnsupportedServer, match="RESET session_replication_role"):
        engine.connect()
    engine.dispose()
