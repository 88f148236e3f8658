"""The app's role: made once, tolerant of races and missing rights, repaired by every init-db."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import pytest
from sqlalchemy import URL, Connection, Engine, insert, text

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.roles import (
    CONTRACT,
    create_statement,
    exists,
    give_rights,
    rights,
)
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.storage.rows import NOON, add_track, add_user


@pytest.fixture
def role(engine: Engine) -> Iterator[str]:
    """A name that needs its quotes. Databases that gave the role rights are gone by then."""
    name = f"App-{uuid4().hex}.x"
    yield name
    with engine.begin() as connection:
        if exists(connection, name):
            connection.exec_driver_sql(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')


def test_the_app_role_has_exactly_the_rights_of_the_contract_and_cannot_log_in(
    engine: Engine, connection: Connection, role: str
) -> None:
    assert give_rights(engine, role)
    assert rights(connection, role) == CONTRACT
    attributes = connection.execute(
        text(
            "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
            " FROM pg_roles WHERE rolname = :role"
        ),
        {"role": role},
    ).one()
    assert attributes == (False,) * 6


@pytest.mark.parametrize(
    "added",
    [
        "GRANT SELECT ON spotify_pipeline.user_tokens TO {}",
        "GRANT UPDATE (minutes) ON spotify_pipeline.daily_listening TO {}",
        "GRANT INSERT ON spotify_pipeline.sync_requests TO {}",
        "GRANT SELECT (run_id) ON spotify_pipeline.sync_requests TO {}",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA spotify_pipeline TO {}",
        "GRANT EXECUTE ON FUNCTION spotify_pipeline.accept_request TO {}",
        "GRANT CREATE ON SCHEMA spotify_pipeline TO {}",
        "GRANT SELECT ON spotify_pipeline.plays TO PUBLIC",
        "GRANT EXECUTE ON FUNCTION spotify_pipeline.forget_user TO PUBLIC",
        "REVOKE ALL ON ALL TABLES IN SCHEMA spotify_pipeline FROM {}",
        "REVOKE USAGE ON SCHEMA spotify_pipeline FROM {}",
    ],
)
def test_init_db_restores_rights_that_were_changed(
    engine: Engine, connection: Connection, role: str, added: str
) -> None:
    give_rights(engine, role)
    connection.exec_driver_sql(added.format(f'"{role}"'))
    assert rights(connection, role) != CONTRACT or "forget_user" in added
    give_rights(engine, role)
    assert rights(connection, role) == CONTRACT
    public = "SELECT count(*) FROM information_schema.table_privileges WHERE grantee = 'PUBLIC'"
    assert connection.scalar(text(f"{public} AND table_schema = 'spotify_pipeline'")) == 0


def test_a_right_granted_onward_is_revoked_with_its_source(
    engine: Engine, connection: Connection, role: str
) -> None:
    give_rights(engine, role)
    other = f"other_{uuid4().hex}"
    connection.exec_driver_sql(f"CREATE ROLE {other}")
    try:
        connection.exec_driver_sql(
            f'GRANT SELECT ON spotify_pipeline.artists TO "{role}" WITH GRANT OPTION;'
            f'SET ROLE "{role}"; GRANT SELECT ON spotify_pipeline.artists TO {other}; RESET ROLE'
        )
        give_rights(engine, role)
        assert rights(connection, role) == CONTRACT
        assert rights(connection, other) == set()
    finally:
        connection.exec_driver_sql(f"DROP OWNED BY {other}; DROP ROLE {other}")


def test_databases_of_one_server_may_create_the_role_at_once(
    engine: Engine,
    _template: str,  # noqa: PT019 its name
    role: str,
) -> None:
    with ExitStack() as running:
        urls = [running.enter_context(temporary_database(engine, _template)) for _ in range(4)]
        engines = [make_engine(url) for url in urls for _ in range(2)]
        together = threading.Barrier(len(engines))

        def give(engine: Engine) -> bool:
            with engine.connect():
                together.wait(60)
            return give_rights(engine, role)

        with ThreadPoolExecutor(len(engines)) as threads:
            assert set(threads.map(give, engines)) == {True}
        for engine in engines:
            with engine.connect() as connection:
                assert rights(connection, role) == CONTRACT
            engine.dispose()


@pytest.fixture
def owner(empty_database: URL) -> Iterator[Engine]:
    """An engine of a login that owns the schema and lacks CREATEROLE."""
    name = f"owner_{uuid4().hex}"
    admin = make_engine(empty_database)
    with admin.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
        connection.exec_driver_sql(f"CREATE SCHEMA spotify_pipeline AUTHORIZATION {name}")
    engine = make_engine(empty_database.set(username=name, password="p"))
    init_db(engine)
    yield engine
    engine.dispose()
    with admin.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")
    admin.dispose()


def test_without_createrole_init_db_continues_and_uses_a_role_made_later(
    role: str, owner: Engine, connection: Connection
) -> None:
    assert not give_rights(owner, role)
    assert not exists(connection, role)
    connection.exec_driver_sql(create_statement(owner, role))
    assert give_rights(owner, role)
    with owner.connect() as own:
        assert rights(own, role) == CONTRACT


def test_changes_of_the_role_by_the_operator_are_kept(
    engine: Engine, connection: Connection, role: str
) -> None:
    connection.exec_driver_sql(f'CREATE ROLE "{role}" LOGIN CONNECTION LIMIT 3')
    give_rights(engine, role)
    kept = text("SELECT rolcanlogin, rolconnlimit FROM pg_roles WHERE rolname = :role")
    assert connection.execute(kept, {"role": role}).one() == (True, 3)


def test_a_pipeline_that_does_not_own_the_schema_works_with_the_documented_rights(
    engine: Engine, connection: Connection, role: str
) -> None:
    connection.exec_driver_sql(f'CREATE ROLE "{role}"')
    for grant in (
        "USAGE ON SCHEMA spotify_pipeline",
        "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA spotify_pipeline",
        "EXECUTE ON ALL FUNCTIONS IN SCHEMA spotify_pipeline",
    ):
        connection.exec_driver_sql(f'GRANT {grant} TO "{role}"')
    give_rights(engine, "spotify_app")
    connection.exec_driver_sql(f'SET ROLE "{role}"')
    add_user(connection)
    add_track(connection)
    connection.execute(
        insert(t.plays).values(user_id="ada", played_at=NOON, track_id="song", source="api")
    )
    # Its exclusion constraint calls a function of ours with the rights of who writes.
    connection.execute(insert(t.coverage).values(user_id="ada", covered_from=NOON, covered_to=NOON))
    connection.exec_driver_sql("RESET ROLE")
