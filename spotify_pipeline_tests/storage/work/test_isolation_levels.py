"""The app's contract under every isolation level: an old snapshot decides nothing."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine, select, text, update
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.app import Refused, disconnect_user, forget_user, register_user
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import (
    add_user,
    cause,
    connect,
    finish_request,
    request_sync,
)
from spotify_pipeline_tests.storage.work.asking import Ask, both_ways, open_ids

SERIALIZATION_FAILURE = "40001"


@pytest.fixture
def ada(connection: Connection) -> str:
    return add_user(connection)


@pytest.fixture(params=["REPEATABLE READ", "SERIALIZABLE"])
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def old(engine: Engine, level: str, ada: str) -> Iterator[Connection]:
    """A session of the app whose snapshot is from before what the test does."""
    with engine.connect().execution_options(isolation_level=level) as conn:
        conn.execute(select(t.users)).all()
        yield conn


def state(conn: Connection, act: Callable[[Connection], object]) -> str | None:
    """The SQLSTATE with which Postgres refuses."""
    with pytest.raises((DBAPIError, Refused)) as refused:
        act(conn)
    error = refused.value
    return error.sqlstate if isinstance(error, Refused) else cause(error).sqlstate


@both_ways
def test_a_request_finished_since_the_snapshot_keeps_its_cooldown(
    connection: Connection, old: Connection, ask: Ask
) -> None:
    finish_request(connection, request_sync(connection).request_id, "0 minutes")
    assert state(old, ask) == SERIALIZATION_FAILURE
    old.rollback()
    assert state(old, ask) == "SP429"
    assert open_ids(connection) == []


@both_ways
def test_a_request_that_opened_since_the_snapshot_is_met_without_a_constraint_error(
    connection: Connection, old: Connection, ask: Ask
) -> None:
    (open_one,) = [request_sync(connection).request_id]
    assert state(old, ask) == SERIALIZATION_FAILURE
    old.rollback()
    assert ask(old) in (None, open_one)
    old.commit()
    assert open_ids(connection) == [open_one]


@both_ways
@pytest.mark.parametrize("connection_now", ["disconnected", "needs_reauth"])
def test_a_connection_that_ended_since_the_snapshot_starts_no_request(
    connection: Connection, old: Connection, ask: Ask, connection_now: str
) -> None:
    connection.execute(update(t.users).values(connection=connection_now))
    assert state(old, ask) == SERIALIZATION_FAILURE
    old.rollback()
    assert state(old, ask) == "SP409"


@both_ways
def test_a_user_forgotten_since_the_snapshot_starts_no_request(
    connection: Connection, old: Connection, ask: Ask
) -> None:
    forget_user(connection, "ada")
    assert state(old, ask) == SERIALIZATION_FAILURE
    register_user(connection, "ada", None, None)
    old.rollback()
    assert state(old, ask) == "SP409"


@both_ways
def test_a_fresh_snapshot_may_request_at_any_isolation_level(
    connection: Connection, engine: Engine, ada: str, level: str, ask: Ask
) -> None:
    with engine.connect().execution_options(isolation_level=level) as conn:
        assert ask(conn) is not None
        conn.commit()
    assert len(open_ids(connection)) == 1


def test_disconnecting_misses_no_request_made_since_the_snapshot(
    connection: Connection, old: Connection
) -> None:
    request_sync(connection)

    def disconnect(conn: Connection) -> None:
        disconnect_user(conn, "ada")

    assert state(old, disconnect) == SERIALIZATION_FAILURE
    old.rollback()
    disconnect(old)
    old.commit()
    assert open_ids(connection) == []


def test_an_old_snapshot_overwrites_no_newer_zone_or_name(
    connection: Connection, old: Connection
) -> None:
    register_user(connection, "ada", "Europe/Oslo", "Ada")

    def back_to_utc(conn: Connection) -> None:
        # In the snapshot the user lives in UTC already, so nothing would change.
        register_user(conn, "ada", "UTC", None)

    assert state(old, back_to_utc) == SERIALIZATION_FAILURE
    old.rollback()
    back_to_utc(old)
    old.commit()
    assert connection.execute(select(t.users.c.timezone, t.users.c.display_name)).one() == (
        "UTC",
        "Ada",
    )


@pytest.mark.parametrize("act", [disconnect_user, forget_user, connect])
def test_a_user_who_left_since_the_snapshot_is_not_changed(
    connection: Connection, old: Connection, act: Callable[..., None]
) -> None:
    forget_user(connection, "ada")
    assert state(old, lambda conn: act(conn, "ada")) == SERIALIZATION_FAILURE
    old.rollback()
    assert state(old, lambda conn: act(conn, "ada")) == "SP404"


def test_a_user_registered_since_the_snapshot_is_registered_once(
    connection: Connection, old: Connection
) -> None:
    register_user(connection, "bob", None, "Bob")

    def register(conn: Connection) -> None:
        register_user(conn, "bob", "Europe/Oslo", None)

    assert state(old, register) == SERIALIZATION_FAILURE
    old.rollback()
    register(old)
    old.commit()
    bob = connection.execute(select(t.users).where(t.users.c.user_id == "bob")).one()
    assert (bob.timezone, bob.display_name) == ("Europe/Oslo", "Bob")


def test_a_newer_connection_is_not_replaced_by_an_old_snapshot(
    connection: Connection, old: Connection
) -> None:
    connect(connection)
    assert state(old, connect) == SERIALIZATION_FAILURE
    old.rollback()
    connect(old)
    old.commit()
    tokens = connection.scalars(text("SELECT client_id FROM spotify_pipeline.user_tokens")).all()
    assert tokens == ["app"]
