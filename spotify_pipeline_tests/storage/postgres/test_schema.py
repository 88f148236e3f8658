"""init_db, the revisions and the check at start."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import URL, Connection, Engine, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.domain.zones import all_zones
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres import schema
from spotify_pipeline.storage.postgres.engine import (
    UnsupportedServer,
    make_engine,
    server_complaint,
)
from spotify_pipeline.storage.postgres.schema import (
    SchemaOutdated,
    check_revision,
    init_db,
    newest_revision,
)
from spotify_pipeline_tests.storage.postgres.catalog import describe
from spotify_pipeline_tests.storage.rows import add_user, request_sync


@pytest.fixture
def empty(empty_database: URL) -> Iterator[Engine]:
    engine = make_engine(empty_database)
    yield engine
    engine.dispose()


def test_everything_is_in_our_schema_and_nothing_in_public(connection: Connection) -> None:
    elsewhere = connection.scalars(
        text(
            "SELECT relname FROM pg_class WHERE relnamespace NOT IN"
            " ('spotify_pipeline'::regnamespace, 'pg_catalog'::regnamespace,"
            " 'pg_toast'::regnamespace, 'information_schema'::regnamespace)"
        )
    ).all()
    assert elsewhere == []
    assert connection.scalar(text("SELECT version_num FROM spotify_pipeline.alembic_version"))


def test_every_table_view_and_column_says_what_it_means(connection: Connection) -> None:
    silent = connection.execute(
        text("""
            SELECT c.relname, a.attname
            FROM pg_class AS c
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE c.relnamespace = 'spotify_pipeline'::regnamespace
              AND c.relkind IN ('r', 'v')
              AND (obj_description(c.oid, 'pg_class') IS NULL
                   OR col_description(c.oid, a.attnum) IS NULL)
        """)
    ).all()
    assert silent == []


def test_init_db_a_second_time_changes_no_data(engine: Engine, connection: Connection) -> None:
    connection.execute(insert(t.users).values(user_id="ada", timezone="Asia/Kolkata"))
    connection.execute(update(t.settings).values(request_cooldown=text("'5 minutes'")))
    before = describe(connection)
    init_db(engine)
    assert describe(connection) == before
    assert connection.scalars(select(t.users.c.timezone)).all() == ["Asia/Kolkata"]
    assert connection.scalar(select(func.count()).select_from(t.api_budget)) == 1
    assert connection.scalar(select(t.settings.c.request_cooldown)).total_seconds() == 300


def test_init_db_repairs_a_function_and_a_view(engine: Engine, connection: Connection) -> None:
    connection.execute(insert(t.users).values(user_id="ada", connection="connected"))
    connection.execute(text("DROP VIEW spotify_pipeline.sync_status"))
    connection.execute(
        text(
            "CREATE OR REPLACE FUNCTION spotify_pipeline.make_sync_state() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        )
    )
    init_db(engine)
    connection.execute(insert(t.users).values(user_id="bob", connection="connected"))
    states = text("SELECT user_id, state FROM spotify_pipeline.sync_status ORDER BY 1")
    assert connection.execute(states).all() == [("ada", "never"), ("bob", "never")]


INIT_WHEN_THE_LOCK_IS_FREE = """
import os
from sqlalchemy import text
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import check_revision, init_db

engine = make_engine(os.environ["URL"])
with engine.begin() as connection:
    connection.execute(text("SELECT pg_advisory_xact_lock_shared(1)"))
init_db(engine)
check_revision(engine)
"""


def test_four_processes_may_set_up_the_same_database_at_once(empty: Engine) -> None:
    environment = os.environ | {"URL": empty.url.render_as_string(hide_password=False)}
    command = [sys.executable, "-c", INIT_WHEN_THE_LOCK_IS_FREE]
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with empty.begin() as starter:
        starter.execute(text("SELECT pg_advisory_xact_lock(1)"))
        processes = [subprocess.Popen(command, env=environment) for _ in range(4)]
        while starter.scalar(waiting) < 4 and all(process.poll() is None for process in processes):
            time.sleep(0.02)
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    check_revision(empty)


def test_an_advisory_lock_of_another_session_does_not_stop_init_db_for_ever(
    empty: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT", "50ms")
    with empty.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": schema.LOCK})
        with pytest.raises(schema.SchemaBusy):
            init_db(empty, sleep=lambda _: None)
    init_db(empty)


def test_a_failed_init_db_leaves_nothing_behind(empty: Engine) -> None:
    with empty.begin() as connection:
        connection.execute(text("CREATE SCHEMA spotify_pipeline"))
        connection.execute(text("CREATE TABLE spotify_pipeline.users (other int)"))
    with pytest.raises(DBAPIError):
        init_db(empty)
    with empty.connect() as connection:
        assert [row[0] for row in describe(connection)["tables"]] == ["users"]


@pytest.fixture
def owner(empty: Engine) -> Iterator[Engine]:
    """A login that owns our schema, and is no superuser."""
    role = f"owner_{uuid4().hex}"
    database = empty.url.database
    with empty.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'p'"))
        connection.execute(text(f"GRANT CONNECT ON DATABASE {database} TO {role}"))
        connection.execute(text(f"CREATE SCHEMA spotify_pipeline AUTHORIZATION {role}"))
    owner = make_engine(empty.url.set(username=role, password="p"))
    yield owner
    owner.dispose()
    with empty.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {role} CASCADE"))
        connection.execute(text(f"DROP ROLE {role}"))


def test_an_owner_without_superuser_rights_can_set_up_the_database(owner: Engine) -> None:
    init_db(owner)
    init_db(owner)
    with owner.begin() as connection:
        connection.execute(insert(t.users).values(user_id="ada"))


def test_a_function_that_a_superuser_has_added_is_called_by_those_of_the_owner(
    owner: Engine, empty: Engine
) -> None:
    """An upgrade by another login: the owner's functions run with the owner's rights."""
    init_db(owner)
    with owner.begin() as connection:
        connection.execute(text("DROP FUNCTION spotify_pipeline.notify_work()"))
    init_db(empty)
    with owner.begin() as connection:
        add_user(connection)
        request_sync(connection)


def test_a_database_that_was_never_set_up_is_refused_with_the_command_to_run(
    empty: Engine,
) -> None:
    with pytest.raises(SchemaOutdated, match="`spotify-pipeline init-db`"):
        check_revision(empty)


@pytest.mark.parametrize(
    ("revision", "advice"),
    [("0000", "first run `spotify-pipeline init-db`"), ("9999", "upgrade spotify_pipeline")],
)
def test_a_schema_of_another_revision_is_refused_with_the_remedy(
    engine: Engine, connection: Connection, revision: str, advice: str
) -> None:
    check_revision(engine)
    connection.execute(
        text("UPDATE spotify_pipeline.alembic_version SET version_num = :r"), {"r": revision}
    )
    with pytest.raises(SchemaOutdated, match=re.escape(advice)) as refusal:
        check_revision(engine)
    assert revision in str(refusal.value)
    known = "0007" if revision == "0000" else newest_revision()
    assert known in str(refusal.value)


def test_only_the_owner_may_execute_functions(connection: Connection) -> None:
    functions = connection.execute(
        text("""
            SELECT proname, has_function_privilege('public', oid, 'EXECUTE') AS open
            FROM pg_proc WHERE pronamespace = 'spotify_pipeline'::regnamespace
        """)
    ).all()
    assert "request_sync" in {row.proname for row in functions}
    assert [row.proname for row in functions if row.open] == []


def test_our_functions_run_as_owner_with_a_fixed_search_path(connection: Connection) -> None:
    functions = connection.execute(
        text("""
            SELECT p.proname, p.prosecdef, p.proconfig
            FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
            WHERE p.pronamespace = 'spotify_pipeline'::regnamespace AND l.lanname <> 'internal'
        """)
    ).all()
    assert len(functions) >= 6
    for function in functions:
        assert function.prosecdef, function.proname
        assert function.proconfig == ["search_path=pg_catalog, spotify_pipeline, pg_temp"]


def test_every_zone_of_the_pinned_rules_and_no_other_is_known(connection: Connection) -> None:
    assert sorted(connection.scalars(select(t.time_zones.c.name))) == list(all_zones())


def test_zones_dropped_by_the_package_are_deleted_unless_a_user_has_them(
    engine: Engine, connection: Connection
) -> None:
    connection.execute(insert(t.time_zones), [{"name": "Mars/Base"}, {"name": "Mars/Dome"}])
    connection.execute(delete(t.time_zones).where(t.time_zones.c.name == "Europe/Berlin"))
    connection.execute(insert(t.users).values(user_id="ada", timezone="Mars/Base"))
    init_db(engine)
    known = set(connection.scalars(select(t.time_zones.c.name)))
    assert {"Mars/Base", "Europe/Berlin"} <= known
    assert "Mars/Dome" not in known


def test_old_servers_and_other_encodings_are_refused_in_one_sentence() -> None:
    assert server_complaint("15.0", 15, "UTF8") is None
    assert server_complaint("14.9", 14, "UTF8") == (
        "PostgreSQL 15 or newer is needed; this server is 14.9."
    )
    assert "SQL_ASCII" in (server_complaint("17.2", 17, "SQL_ASCII") or "")


def test_init_db_refuses_a_database_that_cannot_hold_every_character(empty: Engine) -> None:
    name = f"ascii_{uuid4().hex}"
    with empty.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII'"
                " LOCALE 'C' LOCALE_PROVIDER libc"
            )
        )
        try:
            ascii_engine = make_engine(empty.url.set(database=name))
            with pytest.raises(UnsupportedServer, match="SQL_ASCII"):
                init_db(ascii_engine)
            ascii_engine.dispose()
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
