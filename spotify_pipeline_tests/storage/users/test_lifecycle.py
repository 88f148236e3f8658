"""Registering, connecting, disconnecting and forgetting users, also during a sync."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, delete, func, insert, select, text, update

from spotify_pipeline.app import Refused, disconnect_user, forget_user, register_user
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.queries import load_users, user_statuses
from spotify_pipeline.storage.work.leases import lock_held, take
from spotify_pipeline_tests.storage.rows import (
    NOON,
    add_track,
    add_user,
    connect,
    request_sync,
    sync_status,
)


@pytest.fixture
def ada(connection: Connection) -> str:
    register_user(connection, "ada", "Europe/Oslo", "Ada")
    connect(connection)
    return "ada"


def add_play(connection: Connection, user_id: str) -> None:
    add_track(connection)
    connection.execute(
        insert(t.plays).values(user_id=user_id, played_at=NOON, track_id="song", source="api")
    )


def test_disconnecting_deletes_the_token_and_keeps_the_plays(
    connection: Connection, ada: str
) -> None:
    add_play(connection, ada)
    connection.execute(update(t.sync_state).values(last_error_code="RECONNECT"))
    disconnect_user(connection, ada)
    assert connection.scalars(select(t.user_tokens.c.user_id)).all() == []
    assert connection.scalars(select(t.plays.c.user_id)).all() == [ada]
    status = sync_status(connection)
    assert (status.connection, status.state, status.error_code) == ("disconnected", "never", None)
    disconnect_user(connection, ada)
    connect(connection)
    assert request_sync(connection).status == "queued"


@pytest.mark.parametrize("status", ["queued", "running"])
def test_disconnecting_closes_an_open_request_and_starts_no_cooldown(
    connection: Connection, ada: str, status: str
) -> None:
    request = request_sync(connection).request_id
    connection.execute(update(t.sync_requests).values(status=status))
    disconnect_user(connection, ada)
    shown = sync_status(connection)
    assert (shown.request_id, shown.request_status, shown.state) == (request, "failed", "failed")
    assert (shown.error_code, shown.next_allowed_at) == ("CANCELLED", None)
    assert shown.error_message == "Spotify was disconnected. Connect it again to sync."
    connect(connection)
    assert request_sync(connection).request_id != request


def test_forgetting_leaves_no_row_of_the_user(
    connection: Connection, engine: Engine, ada: str
) -> None:
    add_play(connection, ada)
    request_sync(connection)
    add_user(connection, "bob")
    connection.execute(insert(t.coverage).values(user_id=ada, covered_from=NOON, covered_to=NOON))
    forget_user(connection, ada)
    for table in t.metadata.sorted_tables:
        # The tombstone stays until Dagster's storage is purged of the user.
        if "user_id" in table.c and table.name != "forgotten":
            named = select(func.count()).where(table.c.user_id == ada)
            assert connection.scalar(named) == 0, table.name
    assert connection.scalars(select(t.users.c.user_id)).all() == ["bob"]


def test_plays_can_be_deleted_when_a_restore_left_their_count_too_low(
    connection: Connection, ada: str
) -> None:
    add_play(connection, ada)
    connection.execute(update(t.listening_tallies).values(plays=0))
    connection.execute(delete(t.plays))
    assert connection.scalar(select(t.listening_tallies.c.plays)) == 0


def test_more_than_65535_users_can_be_queried(connection: Connection, ada: str) -> None:
    """A statement has room for 65,535 parameters. A user without counters is found, too."""
    connection.execute(delete(t.listening_tallies))
    names = [ada, *map(str, range(70_000))]
    assert [user.user_id for user in user_statuses(connection, names)] == [ada]
    assert [user.user_id for user in load_users(connection, names)] == [ada]


@pytest.mark.parametrize("leave", [disconnect_user, forget_user])
def test_unknown_users_cannot_be_disconnected_or_forgotten(connection: Connection, leave) -> None:
    for user_id in ("nobody", "", None):
        with pytest.raises(Refused, match="no such user") as refused:
            leave(connection, user_id)
        assert refused.value.sqlstate == "SP404"


def test_moving_and_reconnecting_in_one_transaction_does_not_deadlock_with_a_sync(
    engine: Engine, connection: Connection, ada: str
) -> None:
    """The write locked sync_state and then users; the app locked users and then sync_state."""
    lease = uuid4()
    assert take(connection, [ada], lease) == {ada}
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def sign_in() -> None:
        with engine.begin() as app:
            register_user(app, ada, "Asia/Tokyo", None)
            connect(app)

    with ThreadPoolExecutor(1) as other:
        with engine.begin() as write:
            assert lock_held(write, [ada], lease) == ({ada}, {ada}, set())
            signing_in = other.submit(sign_in)
            deadline = threading.Event()
            for _ in range(500):
                if connection.scalar(waiting) or signing_in.done():
                    break
                deadline.wait(0.02)
            write.execute(update(t.users).values(days_stale=False))
        signing_in.result(30)
    assert connection.scalar(select(t.users.c.timezone)) == "Asia/Tokyo"
