"""The permissions of the app's login: what it may do, and what must be denied."""

import os
from collections.abc import Iterator
from datetime import datetime
from uuid import uuid4

import pytest
from psycopg import sql
from sqlalchemy import URL, Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.database import CLOSE
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.roles import CONTRACT, rights
from spotify_pipeline_tests.app.conftest import ROLE, autocommit, closed_database
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.storage.rows import add_user, cause, request_sync, sync_status

CONNECT = text(
    "SELECT spotify_pipeline.connect_user('ada', 'client', 'sealed', 'k1', '{a,b}', '2026-03-14Z')"
)


@pytest.fixture(scope="module")
def shared(_admin: Engine, _template: str, login: tuple[str, str]) -> Iterator[URL]:
    """One shared database for statements that are denied anyway."""
    with closed_database(_admin, _template) as url:
        owner = make_engine(url)
        with owner.begin() as connection:
            add_user(connection)
            request_sync(connection)
        yield url
        owner.dispose()


@pytest.fixture
def intruder(shared: URL, login: tuple[str, str]) -> Iterator[Connection]:
    engine = make_engine(shared.set(username=login[0], password=login[1]))
    with autocommit(engine) as connection:
        yield connection
    engine.dispose()


def test_a_login_of_the_app_has_the_rights_of_the_contract_and_no_other(
    connection: Connection, login: tuple[str, str]
) -> None:
    assert rights(connection, ROLE) == CONTRACT
    assert rights(connection, login[0]) == CONTRACT


def test_an_app_can_use_everything_in_the_contract(app: Connection, connection: Connection) -> None:
    app.execute(text("SELECT spotify_pipeline.register_user('ada', 'Europe/Oslo', 'Ada')"))
    app.execute(text("SELECT spotify_pipeline.register_user('ada')"))
    app.execute(CONNECT)
    assert request_sync(app).status == "queued"
    assert sync_status(app).state == "queued"
    days = app.execute(text("SELECT * FROM spotify_pipeline.listening_history('ada', 7)")).all()
    assert len(days) == 7
    for name in (
        "daily_listening",
        "user_top_artists",
        "user_top_tracks",
        "music_personality",
        "music_personality_history",
        "artists",
        "tracks",
        "sync_status",
    ):
        app.execute(text(f"SELECT * FROM spotify_pipeline.{name}"))
    seen = app.execute(
        text(
            "SELECT id, user_id, status, requested_at, started_at, finished_at, error_code,"
            " error_message FROM spotify_pipeline.sync_requests"
        )
    ).one()
    assert (seen.user_id, seen.status) == ("ada", "queued")
    app.execute(text("SELECT spotify_pipeline.disconnect_user('ada')"))
    assert connection.scalar(select(t.users.c.timezone)) == "Europe/Oslo"
    app.execute(text("SELECT spotify_pipeline.forget_user('ada')"))
    assert connection.execute(select(t.users)).all() == []


def test_a_plain_insert_returns_the_id_of_the_new_request(
    app: Connection, connection: Connection, login: tuple[str, str]
) -> None:
    add_user(connection)
    add_user(connection, "bob")
    ask = "INSERT INTO spotify_pipeline.sync_requests"
    first = app.scalar(text(f"{ask} (user_id) VALUES ('ada') RETURNING id"))
    second = app.execute(
        text(f"{ask} (user_id, requested_by) VALUES ('bob', 'Bob') RETURNING id, requested_at")
    ).one()
    assert app.scalar(text(f"{ask} (user_id) VALUES ('ada') RETURNING id")) is None
    assert isinstance(second.requested_at, datetime)
    r = t.sync_requests
    stored = connection.execute(select(r.c.id, r.c.requested_by).order_by(r.c.id)).all()
    assert stored == [(first, login[0]), (second.id, "Bob")]


TABLES = (
    "alembic_version",
    "api_budget",
    "coverage",
    "history_import_batches",
    "history_import_files",
    "history_imports",
    "day_starts",
    "fetch_log",
    "listening_gaps",
    "plays",
    "account_block",
    "request_cooldown",
    "settings",
    "sync_requests",
    "sync_run_users",
    "sync_state",
    "top_artists_history",
    "top_list_artists",
    "top_list_tracks",
    "top_list_versions",
    "top_lists",
    "top_tracks_history",
    "user_tokens",
    "users",
)
RESULTS = (
    *("artists", "daily_listening", "music_personality", "music_personality_history", "tracks"),
    "top_list_artists",
)
DENIED = "42501"

PROBES = {
    **{f"read {name}": f"SELECT * FROM spotify_pipeline.{name}" for name in TABLES},
    **{f"empty {name}": f"DELETE FROM spotify_pipeline.{name}" for name in RESULTS},
    **{f"truncate {name}": f"TRUNCATE spotify_pipeline.{name}" for name in ("users", "plays")},
    "change minutes": "UPDATE spotify_pipeline.daily_listening SET minutes = 0",
    "change a track": "UPDATE spotify_pipeline.tracks SET name = 'mine'",
    "end a request": "UPDATE spotify_pipeline.sync_requests SET status = 'succeeded'",
    "take a request back": "DELETE FROM spotify_pipeline.sync_requests",
    "read who asked": "SELECT requested_by FROM spotify_pipeline.sync_requests",
    "read the dispatch key": "SELECT dispatch_key FROM spotify_pipeline.sync_requests",
    "lock the queue": "SELECT id FROM spotify_pipeline.sync_requests FOR UPDATE",
    "lock a table": "DO 'BEGIN LOCK TABLE spotify_pipeline.tracks IN SHARE MODE; END'",
    "choose the status": (
        "INSERT INTO spotify_pipeline.sync_requests (user_id, status) VALUES ('ada', 'running')"
    ),
    "choose the number": (
        "INSERT INTO spotify_pipeline.sync_requests (id, user_id) OVERRIDING SYSTEM VALUE"
        " VALUES (1, 'ada')"
    ),
    "choose the cooldown": "UPDATE spotify_pipeline.settings SET request_cooldown = '0'",
    "clear a block": "UPDATE spotify_pipeline.api_budget SET blocked_until = NULL",
    "insert a user": "INSERT INTO spotify_pipeline.users (user_id) VALUES ('eve')",
    "store a token": "INSERT INTO spotify_pipeline.user_tokens (user_id) VALUES ('ada')",
    "the trigger's function": "SELECT spotify_pipeline.accept_request()",
    "the state's function": "SELECT spotify_pipeline.make_sync_state()",
    "the import's lock": "SELECT spotify_pipeline.lock_history_import(1)",
    "close an import": "UPDATE spotify_pipeline.history_imports SET status = 'closed'",
    "the range's function": "SELECT spotify_pipeline.text_range('a', 'b')",
    "the requests' numbers": "SELECT nextval('spotify_pipeline.sync_requests_id_seq')",
    "set role": "SET ROLE OWNER",
    "set session": "SET SESSION AUTHORIZATION OWNER",
    "copy from a program": "COPY spotify_pipeline.artists FROM PROGRAM 'id'",
    "copy to a program": "COPY (SELECT 1) TO PROGRAM 'cat'",
    "copy to a file": "COPY spotify_pipeline.artists TO '/tmp/artists'",
    "read a file": "SELECT pg_read_file('/etc/passwd')",
    "list files": "SELECT pg_ls_dir('.')",
    "import a large object": "SELECT lo_import('/etc/passwd')",
    "temporary table": "CREATE TEMP TABLE mine (n int)",
    "temporary view": "CREATE TEMP VIEW mine AS SELECT 1 AS n",
    "temporary function": "CREATE FUNCTION pg_temp.now() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a table in public": "CREATE TABLE public.mine (n int)",
    "a table of ours": "CREATE TABLE spotify_pipeline.mine (n int)",
    "a function of ours": (
        "CREATE FUNCTION spotify_pipeline.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    ),
    "a trigger of ours": (
        "CREATE TRIGGER mine BEFORE INSERT ON spotify_pipeline.sync_requests"
        " FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.accept_request()"
    ),
    "replace a view": "CREATE OR REPLACE VIEW spotify_pipeline.sync_status AS SELECT 1",
    "drop a table": "DROP TABLE spotify_pipeline.daily_listening",
    "drop the schema": "DROP SCHEMA spotify_pipeline CASCADE",
    "rename a column": "ALTER TABLE spotify_pipeline.tracks RENAME name TO title",
    "a new schema": "CREATE SCHEMA mine",
    "a new role": "CREATE ROLE mine",
    "a new database": "CREATE DATABASE mine",
    "a new extension": "CREATE EXTENSION dblink",
    "a language": "CREATE LANGUAGE plpython3u",
    "become more": f"ALTER ROLE {ROLE} SUPERUSER",
    "change the server": "ALTER SYSTEM SET fsync = off",
    "end other sessions": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid > 0",
    "reload the server": "SELECT pg_reload_conf()",
    "be a replica": "SET session_replication_role = 'replica'",
    "pass a right on": f"GRANT {ROLE} TO OWNER",
}

# What Postgres raises instead of "permission denied" where it lacks the feature.
NOT_INSTALLED = {"0A000", "58P01"}


@pytest.mark.parametrize("name", PROBES)
def test_an_app_is_denied(intruder: Connection, shared: URL, name: str) -> None:
    with pytest.raises(DBAPIError) as refused:
        intruder.execute(text(PROBES[name].replace("OWNER", f'"{shared.username}"')))
    expected = {DENIED} | (NOT_INSTALLED if name in ("a new extension", "a language") else set())
    assert cause(refused.value).sqlstate in expected, refused.value


def test_granting_a_right_to_public_has_no_effect(
    intruder: Connection, shared: URL, login: tuple[str, str]
) -> None:
    # Without the grant option, Postgres warns and grants nothing.
    intruder.execute(text("GRANT SELECT ON spotify_pipeline.artists TO PUBLIC"))
    owner = make_engine(shared)
    with owner.connect() as connection:
        open_to_all = text(
            "SELECT has_table_privilege('public', 'spotify_pipeline.artists', 'SELECT')"
        )
        assert connection.scalar(open_to_all) is False
    owner.dispose()


def test_no_other_database_of_ours_lets_an_app_in(server: Engine, login: tuple[str, str]) -> None:
    with temporary_database(server, "template0") as dagsters:
        with autocommit(server) as connection:
            connection.exec_driver_sql(CLOSE.format(sql.Identifier(dagsters.database)).as_string())
        ours = [dagsters]
        if "SPOTIFY_PIPELINE_TEST_DATABASE_URL" not in os.environ:
            # The embedded server's own databases.
            ours += [dagsters.set(database=name) for name in ("postgres", "template1")]
        for url in ours:
            engine = make_engine(url.set(username=login[0], password=login[1]))
            with pytest.raises(DBAPIError, match="permission denied for database"):
                engine.connect()
            engine.dispose()


def test_a_statement_of_the_login_ends_after_the_limit_that_was_set_for_it(
    intruder: Connection,
) -> None:
    # The pipeline's own sessions have no limit; an app's session has the limit of its login.
    intruder.execute(text("RESET statement_timeout"))
    with pytest.raises(DBAPIError) as refused:
        intruder.execute(text("SELECT pg_sleep(60)"))
    assert cause(refused.value).sqlstate == "57014"


def test_a_hostile_search_path_does_not_affect_our_functions(
    app: Connection, connection: Connection
) -> None:
    """Search path hijacking: the session's search_path and objects in it must not matter."""
    role = app.scalar(text("SELECT session_user"))
    schema = f"s{uuid4().hex}"
    connection.execute(text(f"CREATE SCHEMA {schema} AUTHORIZATION {role}"))
    app.execute(text(f"CREATE TABLE {schema}.users (user_id text, connection text)"))
    app.execute(text(f"INSERT INTO {schema}.users VALUES ('eve', 'connected')"))
    app.execute(
        text(f"CREATE FUNCTION {schema}.clock_timestamp() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    )
    app.execute(text(f"SET search_path = {schema}, pg_catalog"))
    with pytest.raises(DBAPIError) as refused:
        request_sync(app, "eve")
    assert cause(refused.value).sqlstate == "SP404"
    add_user(connection)
    assert request_sync(app).status == "queued"
    connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
