"""Which URLs are understood, and what a connection is like."""

import traceback

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import (
    SESSION,
    BadDatabaseUrl,
    make_engine,
    normalise_url,
)


@pytest.mark.parametrize(
    "scheme",
    [
        "postgres",
        "postgresql",
        "postgresql+psycopg",
        "postgresql+psycopg2",
        "postgresql+asyncpg",
        "postgres+psycopg2",
    ],
)
def test_every_form_of_a_postgres_url_is_understood(scheme: str) -> None:
    url = normalise_url(f"{scheme}://ada:p%40ss@db.example:6543/music?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port) == ("ada", "p@ss", "db.example", 6543)
    assert url.database == "music"
    assert url.query == {"sslmode": "require"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "canary-password",
        "postgres:ada:canary-password@host/db",
        "postgresql://ada:canary-password@host:port/db",
        "postgresql://ada:canary-password/with/slash@host:5432:1/db",
        "mysql://ada:canary-password@host/db",
    ],
)
def test_other_texts_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(BadDatabaseUrl) as refusal:
        normalise_url(text)
    assert "postgresql://" in str(refusal.value)
    assert "canary" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def test_a_connection_uses_utc_and_sets_its_application_name(engine: Engine) -> None:
    named = make_engine(engine.url, application_name="a test")
    with named.connect() as connection:
        assert connection.scalar(text("SHOW timezone")) == "UTC"
        assert connection.scalar(text("SHOW application_name")) == "a test"
        assert connection.scalar(text("SELECT now()")).tzname() == "UTC"
    named.dispose()


def test_a_password_is_in_no_error_of_a_failed_connection(engine: Engine) -> None:
    wrong = make_engine(engine.url.set(password="canary-password", database="no_such_database"))
    with pytest.raises(DBAPIError) as refusal, wrong.connect():
        pass
    assert "canary" not in str(refusal.value)
    assert "canary" not in repr(wrong)


def test_parameters_are_in_no_error_of_a_statement(engine: Engine) -> None:
    with pytest.raises(DBAPIError) as refusal, engine.connect() as connection:
        connection.execute(
            text("SELECT 1 / (length(:secret) - length(:secret))"), {"secret": "canary"}
        )
    assert "canary" not in str(refusal.value)


def test_a_refused_row_is_in_no_error(engine: Engine) -> None:
    state = text("INSERT INTO spotify_pipeline.sync_state (user_id) VALUES (:user_id)")
    with engine.begin() as conn, pytest.raises(IntegrityError) as refused:
        conn.execute(state, {"user_id": "can" + "ary"})
    assert "canary" not in "".join(traceback.format_exception(refused.value))
    assert "canary" in refused.value.orig.diag.message_detail


def test_a_dead_pooled_connection_is_replaced(engine: Engine) -> None:
    with engine.connect() as connection:
        doomed = connection.scalar(text("SELECT pg_backend_pid()"))
    other = make_engine(engine.url)
    with other.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": doomed})
    other.dispose()
    with engine.connect() as connection:
        assert connection.scalars(select(t.users.c.user_id)).all() == []


def test_a_session_that_hangs_in_a_transaction_is_ended_after_a_timeout(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SESSION, "idle_in_transaction_session_timeout", "500ms")
    insert = text("INSERT INTO spotify_pipeline.artists (spotify_id, name) VALUES ('a', 'A')")
    silent = make_engine(engine.url)
    with silent.connect() as connection:
        connection.execute(insert)
        with engine.begin() as other:
            other.execute(text("SET LOCAL lock_timeout = '20s'"))
            other.execute(insert)
        with pytest.raises(DBAPIError, match="idle-in-transaction"):
            connection.commit()
    silent.dispose()
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT name FROM spotify_pipeline.artists")).all() == ["A"]


def test_both_sides_detect_a_vanished_host_within_a_minute(engine: Engine) -> None:
    with engine.connect() as connection:
        ours = connection.connection.driver_connection.info.get_parameters()
        servers = dict(connection.execute(text("SELECT name, setting FROM pg_settings")).all())
    for side, name in ((ours, "keepalives"), (servers, "tcp_keepalives")):
        idle, interval, count = (int(side[f"{name}_{n}"]) for n in ("idle", "interval", "count"))
        assert idle + interval * count <= 60
    assert int(servers["idle_in_transaction_session_timeout"]) <= 60_000
