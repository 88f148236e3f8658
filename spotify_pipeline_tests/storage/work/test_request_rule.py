"""Which requests are accepted, by request_sync() and by a plain INSERT alike."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from sqlalchemy import Connection, Engine, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline_tests.storage.rows import add_user, request_sync
from spotify_pipeline_tests.storage.work.asking import (
    Ask,
    both_ways,
    by_function,
    open_ids,
    plain_insert,
    refusal,
)


@pytest.fixture
def ada(connection: Connection) -> str:
    return add_user(connection)


def test_a_first_request_is_queued(connection: Connection, ada: str) -> None:
    answer = request_sync(connection)
    assert answer.status == "queued"
    assert answer.retry_at is None
    assert answer.message == "Your sync is queued and starts in a few seconds."
    (row,) = connection.execute(select(t.sync_requests)).all()
    assert (row.id, row.user_id, row.status) == (answer.request_id, ada, "queued")
    assert row.requested_by == connection.scalar(text("SELECT session_user"))


def test_only_user_and_requester_can_be_given(connection: Connection, ada: str) -> None:
    connection.execute(
        insert(t.sync_requests).values(
            user_id=ada,
            requested_by="the app",
            status="succeeded",
            attempts=7,
            dispatch_key="mine",
            run_id="mine",
            requested_at=text("'2001-01-01'"),
            started_at=func.now(),
            finished_at=func.now(),
            error_code="INTERNAL",
            error_message="mine",
        )
    )
    (row,) = connection.execute(select(t.sync_requests)).all()
    assert (row.requested_by, row.status, row.attempts) == ("the app", "queued", 0)
    assert datetime.now(UTC) - row.requested_at < timedelta(minutes=5)
    forced = (row.dispatch_key, row.run_id, row.started_at, row.finished_at)
    assert (*forced, row.error_code, row.error_message) == (None,) * 6


def test_the_id_of_a_request_cannot_be_chosen(connection: Connection, ada: str) -> None:
    with pytest.raises(DBAPIError, match="GENERATED ALWAYS"):
        connection.execute(insert(t.sync_requests).values(id=1, user_id=ada))


@both_ways
def test_an_unknown_user_is_refused(connection: Connection, ada: str, ask: Ask) -> None:
    for user_id in ("nobody", "", "Ada", None, "ada\n", "x" * 10_000):
        error = refusal(connection, ask, user_id)
        assert error.sqlstate == "SP404"
        assert error.diag.message_primary == "There is no such user."
        assert error.diag.message_detail is None


@both_ways
def test_a_request_without_a_connection_asks_to_reconnect(connection: Connection, ask: Ask) -> None:
    for state in ("disconnected", "needs_reauth"):
        error = refusal(connection, ask, add_user(connection, state, connection=state))
        assert error.sqlstate == "SP409"
        assert "Reconnect Spotify" in str(error.diag.message_primary)
        assert error.diag.message_detail is None


@both_ways
def test_a_user_with_a_connection_is_accepted(connection: Connection, ask: Ask) -> None:
    for state in ("connected", "expiring", "suspect"):
        user_id = add_user(connection, state, connection=state)
        assert ask(connection, user_id) in open_ids(connection)


def test_while_a_request_is_open_another_adds_nothing_and_raises_nothing(
    connection: Connection, ada: str
) -> None:
    first = request_sync(connection)
    for status in ("queued", "running"):
        connection.execute(update(t.sync_requests).values(status=status))
        assert plain_insert(connection) is None
        again = request_sync(connection)
        assert (again.request_id, again.status) == (first.request_id, status)
        assert status in again.message
        assert open_ids(connection) == [first.request_id]


def test_an_insert_of_many_rows_obeys_the_request_rule(connection: Connection, ada: str) -> None:
    add_user(connection, "bob")
    rows = [{"user_id": user_id} for user_id in ("ada", "bob", "ada", "ada")]
    connection.execute(insert(t.sync_requests).values(rows))
    assert len(open_ids(connection)) == 2


def test_requests_during_a_429_are_accepted_with_retry_at(connection: Connection, ada: str) -> None:
    until = datetime.now(UTC) + timedelta(days=6)
    connection.execute(update(t.api_budget).values(blocked_until=until, blocked_reason="QUOTA"))
    for _ in range(2):
        answer = request_sync(connection)
        assert (answer.status, answer.retry_at) == ("queued", until)
        assert answer.message == (
            f"Spotify asked us to wait. Your sync starts after {until:%Y-%m-%d %H:%M} UTC."
        )
    connection.execute(update(t.api_budget).values(blocked_until=func.now()))
    assert request_sync(connection).retry_at is None


@both_ways
def test_one_of_sixty_simultaneous_requests_is_accepted(
    engine: Engine, connection: Connection, ada: str, ask: Ask
) -> None:
    barrier = Barrier(60)
    crowd = make_engine(engine.url, pool_size=60)

    def click(_: int) -> int | None:
        with crowd.connect() as own, own.begin():
            barrier.wait(60)
            return ask(own)

    with ThreadPoolExecutor(60) as threads:
        answers = list(threads.map(click, range(60)))
    crowd.dispose()
    (accepted,) = open_ids(connection)
    others = [accepted if ask is by_function else None] * 59
    assert sorted(answers, key=str) == [accepted, *others]


@both_ways
def test_a_click_does_not_wait_for_a_running_sync(
    engine: Engine, connection: Connection, ada: str, ask: Ask
) -> None:
    with engine.begin() as sync:
        sync.execute(select(t.users).with_for_update(read=True, key_share=True))
        sync.execute(select(t.sync_state).with_for_update())
        fetched = {"user_id": ada, "fetched_at": func.now(), "items": 0, "new_plays": 0}
        sync.execute(insert(t.fetch_log).values(fetched | {"overlapped": False}))
        connection.execute(text("SET lock_timeout = '5s'"))
        assert ask(connection) in open_ids(connection)


def test_a_request_that_ends_while_it_is_asked_for_again_is_answered_with_its_end(
    connection: Connection, ada: str
) -> None:
    first = by_function(connection)
    connection.execute(
        text("""
            CREATE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                UPDATE spotify_pipeline.sync_requests SET status = 'succeeded';
                RETURN NULL;
            END $$;
            CREATE TRIGGER right_after_the_rule AFTER INSERT ON spotify_pipeline.sync_requests
                FOR EACH STATEMENT EXECUTE FUNCTION end_it();
        """)
    )
    answer = request_sync(connection)
    assert (answer.request_id, answer.status) == (first, "succeeded")
    assert answer.message == "Your sync has just ended."


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Apia"])
def test_the_sessions_time_zone_does_not_move_the_cooldown(
    connection: Connection, ada: str, zone: str
) -> None:
    # New York had a day of 25 hours on 1 November 2026.
    connection.execute(update(t.settings).values(request_cooldown=timedelta(days=30)))
    connection.execute(text(f"SET LOCAL TimeZone = '{zone}'"))
    finished = datetime(2026, 10, 20, 12, tzinfo=UTC)
    request = request_sync(connection)
    connection.execute(
        update(t.sync_requests)
        .where(t.sync_requests.c.id == request.request_id)
        .values(status="succeeded", finished_at=finished)
    )
    after = text("SELECT after_success FROM spotify_pipeline.request_cooldown")
    assert connection.scalar(after) == finished + timedelta(days=30)
