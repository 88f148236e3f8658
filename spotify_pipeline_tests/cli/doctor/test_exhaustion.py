"""No connection left, a read-only default, a standby: each has its sentence, and doctor sees it."""

from uuid import uuid4

import psycopg
from sqlalchemy import text

from spotify_pipeline_tests.cli.conftest import with_password
from spotify_pipeline_tests.storage.postgres.test_foreign_settings import set_for_all


def hold(url, number: int) -> list[psycopg.Connection]:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return [psycopg.connect(plain) for _ in range(number)]


def test_exhausted_connections_are_reported_where_the_sync_fails(
    database, dagster, run, listener, engine, environ
):
    for name in ("ann", "bob"):
        listener(name)
    with engine.connect() as conn:
        conn.commit()
        conn.execution_options(isolation_level="AUTOCOMMIT").execute(
            text(f'ALTER DATABASE "{database.database}" CONNECTION LIMIT 8')
        )
    role = f"owner_{uuid4().hex}"
    with engine.begin() as conn:
        conn.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'p'"))
        conn.execute(text(f'GRANT CONNECT ON DATABASE "{database.database}" TO {role}'))
        for kind in ("TABLES", "SEQUENCES", "ROUTINES"):
            conn.execute(text(f"GRANT ALL ON ALL {kind} IN SCHEMA spotify_pipeline TO {role}"))
        conn.execute(text(f"GRANT ALL ON SCHEMA spotify_pipeline TO {role}"))
    own = database.set(username=role, password="p")
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(own))
    held = hold(own, 6)
    try:
        for arguments in (("sync", "ann", "bob"), ("sync", "ann")):
            failed = run(*arguments)
            assert failed.exit_code == 1, failed.output
            assert "has no connection left" in failed.stderr
            assert "Ask for it again" not in failed.output
        printed = run("doctor").stdout
        assert f"{role} holds " in printed
        assert "CONNECTION LIMIT" in printed
    finally:
        for connection in held:
            connection.close()
        with engine.begin() as conn:
            conn.execute(text(f"DROP OWNED BY {role}"))
            conn.execute(text(f"DROP ROLE {role}"))


def test_a_read_only_default_stops_nothing_and_is_noted(database, dagster, run, listener):
    set_for_all(database, {"default_transaction_read_only": "on"})
    listener("ann")
    set_for_all(dagster, {"default_transaction_read_only": "on"})
    try:
        assert run("sync", "ann").exit_code == 0
        printed = run("doctor").stdout
    finally:
        # Other tests share Dagster's database.
        set_for_all(dagster, {"default_transaction_read_only": "off"})
    assert "note     database: default_transaction_read_only is on here" in printed
