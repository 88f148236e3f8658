"""What the app shows about a user's syncs: the view sync_status."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work.api_budget import note_full_day
from spotify_pipeline_tests.storage.rows import (
    NOON,
    add_user,
    cause,
    finish_request,
    request_sync,
    sync_status,
)

FAR = datetime.now(UTC) + timedelta(days=6)


@pytest.fixture
def ada(connection: Connection) -> str:
    return add_user(connection)


def record(connection: Connection, error_code: str | None = None) -> None:
    """A scheduled sync wrote its result."""
    connection.execute(
        update(t.sync_state).values(
            last_synced_at=NOON,
            recorded_at=func.clock_timestamp(),
            last_error_code=error_code,
            last_error_message=error_code and "a sentence",
        )
    )


def test_a_new_user_was_never_synced(connection: Connection) -> None:
    add_user(connection, connection="disconnected")
    assert sync_status(connection) == (
        "ada",
        "disconnected",
        "never",
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
    )


def test_sync_status_follows_a_request_that_succeeds(connection: Connection, ada: str) -> None:
    request = request_sync(connection).request_id
    status = sync_status(connection)
    assert (status.state, status.request_id, status.request_status) == ("queued", request, "queued")
    connection.execute(update(t.sync_requests).values(status="running"))
    assert sync_status(connection).state == "running"
    finish_request(connection, request, "10 minutes")
    record(connection)
    status = sync_status(connection)
    assert (status.state, status.last_synced_at) == ("idle", NOON)
    assert status.request_status == "succeeded"
    assert status.next_allowed_at == connection.scalar(
        select(t.sync_requests.c.finished_at + timedelta(hours=1))
    )
    connection.execute(update(t.settings).values(request_cooldown=timedelta(minutes=10)))
    assert sync_status(connection).next_allowed_at is None


def test_a_queued_request_is_blocked_while_spotify_makes_us_wait(
    connection: Connection, ada: str
) -> None:
    connection.execute(update(t.api_budget).values(blocked_until=FAR, blocked_reason="RATE"))
    status = sync_status(connection)
    assert (status.state, status.blocked_until) == ("never", FAR)
    request_sync(connection)
    assert sync_status(connection).state == "blocked"
    connection.execute(update(t.sync_requests).values(status="running"))
    assert sync_status(connection).state == "running"
    connection.execute(update(t.api_budget).values(blocked_until=func.now()))
    assert sync_status(connection).blocked_until is None


def test_a_failed_request_shows_its_error_even_if_its_run_died_silently(
    connection: Connection, ada: str
) -> None:
    record(connection, "RATE_LIMITED")
    finish_request(connection, request_sync(connection).request_id, "0 seconds", "CRASHED")
    status = sync_status(connection)
    assert (status.state, status.error_code, status.error_message) == ("failed", "CRASHED", None)
    assert status.next_allowed_at > datetime.now(UTC) + timedelta(minutes=1)


def test_a_later_success_replaces_the_error_of_a_failed_request(
    connection: Connection, ada: str
) -> None:
    finish_request(connection, request_sync(connection).request_id, "1 day", "CRASHED")
    record(connection, "MISSING_SCOPE")
    status = sync_status(connection)
    assert (status.state, status.error_code) == ("failed", "MISSING_SCOPE")
    assert status.error_message == "a sentence"
    record(connection)
    status = sync_status(connection)
    assert (status.state, status.error_code, status.error_message) == ("idle", None, None)


def test_an_old_failure_is_not_shown_while_a_new_request_is_open(
    connection: Connection, ada: str
) -> None:
    finish_request(connection, request_sync(connection).request_id, "1 day", "INTERNAL")
    record(connection, "INTERNAL")
    request_sync(connection)
    status = sync_status(connection)
    assert (status.state, status.error_code, status.error_message) == ("queued", None, None)


def test_a_failed_scheduled_sync_is_shown_and_starts_no_wait(
    connection: Connection, ada: str
) -> None:
    record(connection, "SPOTIFY_UNAVAILABLE")
    status = sync_status(connection)
    assert (status.state, status.error_code) == ("failed", "SPOTIFY_UNAVAILABLE")
    assert (status.request_id, status.next_allowed_at) == (None, None)


def test_the_end_of_the_connection_is_shown(connection: Connection, ada: str) -> None:
    connection.execute(
        insert(t.user_tokens).values(
            user_id=ada,
            client_id="app",
            sealed_refresh_token=b"sealed",
            key_id="k1",
            authorized_at=NOON,
        )
    )
    assert sync_status(connection).reconnect_by == NOON.replace(month=9)


def test_next_allowed_at_is_the_instant_of_the_refusal(connection: Connection, ada: str) -> None:
    finish_request(connection, request_sync(connection).request_id, "3 minutes")
    with pytest.raises(Exception, match="sync again in 57 minutes") as refused:
        request_sync(connection)
    shown = sync_status(connection).next_allowed_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert cause(refused.value).diag.message_detail == shown  # type: ignore[arg-type]


@pytest.fixture
def reader(connection: Connection) -> Iterator[str]:
    """A role that may read the view and nothing else."""
    role = f"reader_{uuid4().hex}"
    connection.execute(text(f"CREATE ROLE {role}"))
    connection.execute(text(f"GRANT USAGE ON SCHEMA spotify_pipeline TO {role}"))
    connection.execute(text(f"GRANT SELECT ON spotify_pipeline.sync_status TO {role}"))
    yield role
    connection.execute(text(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"))


def test_the_view_needs_no_right_on_what_it_is_made_of(
    connection: Connection, ada: str, reader: str
) -> None:
    finish_request(connection, request_sync(connection).request_id, "3 minutes")
    connection.execute(text(f"SET ROLE {reader}"))
    status = sync_status(connection)
    assert status.state == "never"
    assert status.next_allowed_at is not None


def test_a_queued_request_is_blocked_while_our_own_limit_of_the_day_leaves_no_call(
    connection: Connection, ada: str
) -> None:
    note_full_day(connection, 3600)
    answer = request_sync(connection)
    assert answer.message.startswith("All calls that we may make in 24 hours are used up.")
    status = sync_status(connection)
    assert (status.state, status.blocked_until) == ("blocked", answer.retry_at)
    connection.execute(update(t.api_budget).values(blocked_until=FAR, blocked_reason="RATE"))
    assert sync_status(connection).blocked_until == FAR
    connection.execute(update(t.api_budget).values(blocked_until=None, blocked_reason=None))
    note_full_day(connection, None)
    status = sync_status(connection)
    assert (status.state, status.blocked_until) == ("queued", None)


def test_a_block_that_ends_later_than_any_can_is_not_shown(
    connection: Connection, ada: str
) -> None:
    until = func.now() + timedelta(days=40)
    connection.execute(
        update(t.api_budget).values(
            blocked_until=until, blocked_reason="QUOTA", day_full_until=until
        )
    )
    assert request_sync(connection).retry_at is None
    status = sync_status(connection)
    assert (status.state, status.blocked_until) == ("queued", None)
