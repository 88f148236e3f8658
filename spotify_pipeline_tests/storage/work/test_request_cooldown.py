"""How long a user waits between two requests."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.exc import IntegrityError

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import add_user, finish_request
from spotify_pipeline_tests.storage.work.asking import (
    Ask,
    both_ways,
    by_function,
    open_ids,
    refusal,
    seconds_to_wait,
)

TRANSIENT = {
    ErrorCode.SPOTIFY_UNAVAILABLE,
    ErrorCode.RATE_LIMITED,
    ErrorCode.QUOTA_EXCEEDED,
    ErrorCode.BAD_RESPONSE,
    ErrorCode.CRASHED,
    ErrorCode.INTERNAL,
}


@pytest.fixture
def ada(connection: Connection) -> str:
    return add_user(connection)


def finish_repeatedly(
    connection: Connection, codes: list[str | None], user_id: str = "ada"
) -> None:
    """Requests that ended with these codes (None: succeeded), the last of them just now."""
    for code in codes[:-1]:
        finish_request(connection, by_function(connection, user_id), "1 day", code)
    finish_request(connection, by_function(connection, user_id), "0 seconds", codes[-1])


def let_time_pass(connection: Connection, time: timedelta) -> None:
    finished = t.sync_requests.c.finished_at
    connection.execute(update(t.sync_requests).values(finished_at=finished - time))


@both_ways
def test_the_cooldown_ends_one_hour_after_a_succeeded_request(
    connection: Connection, ada: str, ask: Ask
) -> None:
    finish_repeatedly(connection, [None])
    let_time_pass(connection, timedelta(minutes=59, seconds=57))
    assert refusal(connection, ask).sqlstate == "SP429"
    let_time_pass(connection, timedelta(seconds=3))
    assert ask(connection) in open_ids(connection)


@both_ways
def test_a_refusal_says_in_words_and_exactly_when_the_next_request_is_accepted(
    connection: Connection, ada: str, ask: Ask
) -> None:
    finish_request(connection, by_function(connection), "23 minutes 30 seconds")
    # Neither the zone nor the style of the session may matter.
    connection.execute(text("SET TIME ZONE 'Asia/Tokyo'"))
    connection.execute(text("SET DateStyle = 'German'"))
    error = refusal(connection, ask)
    assert error.diag.message_primary == (
        "You synced a short while ago. You can sync again in 37 minutes."
    )
    connection.execute(text("SET TIME ZONE 'UTC'"))
    connection.execute(text("SET DateStyle = 'ISO'"))
    until = connection.scalar(select(t.sync_requests.c.finished_at + text("interval '1 hour'")))
    assert error.diag.message_detail == until.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_the_cooldown_is_configurable(connection: Connection, ada: str) -> None:
    finish_request(connection, by_function(connection), "10 minutes")
    connection.execute(update(t.settings).values(request_cooldown=timedelta(minutes=11)))
    assert "in 1 minute." in str(refusal(connection, by_function).diag.message_primary)
    connection.execute(update(t.settings).values(request_cooldown=timedelta(0)))
    assert by_function(connection) in open_ids(connection)
    with pytest.raises(IntegrityError, match="ck_settings_request_cooldown"):
        connection.execute(update(t.settings).values(request_cooldown=timedelta(seconds=-1)))


@both_ways
def test_transient_failures_double_the_wait_up_to_an_hour(connection: Connection, ask: Ask) -> None:
    for failures, minutes in {1: 2, 2: 4, 3: 8, 4: 16, 5: 32, 6: 60, 7: 60, 20: 60}.items():
        user_id = add_user(connection, f"failed {failures} times")
        finish_repeatedly(connection, ["SPOTIFY_UNAVAILABLE"] * failures, user_id)
        error = refusal(connection, ask, user_id)
        assert error.sqlstate == "SP429"
        assert str(error.diag.message_primary).startswith("The last sync failed.")
        assert minutes * 60 - 30 < seconds_to_wait(error) <= minutes * 60, failures
        let_time_pass(connection, timedelta(minutes=minutes))
        assert ask(connection, user_id) in open_ids(connection)


@pytest.mark.parametrize("breaker", [None, "RECONNECT", "CANCELLED"])
def test_a_success_or_a_permanent_failure_ends_the_series(
    connection: Connection, ada: str, breaker: str | None
) -> None:
    finish_repeatedly(connection, [*["CRASHED"] * 4, breaker, "INTERNAL"])
    assert 90 < seconds_to_wait(refusal(connection, by_function)) <= 120


def test_only_transient_failures_start_a_back_off(connection: Connection) -> None:
    for code in ErrorCode:
        user_id = add_user(connection, code.value)
        finish_repeatedly(connection, [code], user_id)
        if code in TRANSIENT:
            assert refusal(connection, by_function, user_id).sqlstate == "SP429", code
        else:
            assert by_function(connection, user_id) in open_ids(connection), code


def test_the_longer_of_cooldown_and_back_off_applies(connection: Connection, ada: str) -> None:
    connection.execute(update(t.settings).values(request_cooldown=timedelta(0)))
    finish_request(connection, by_function(connection), "10 minutes")
    finish_request(connection, by_function(connection), "0 seconds", "INTERNAL")
    connection.execute(update(t.settings).values(request_cooldown=timedelta(hours=1)))
    error = refusal(connection, by_function)
    assert 49 * 60 < seconds_to_wait(error) <= 50 * 60
    assert "You synced a short while ago." in str(error.diag.message_primary)


def test_requests_of_other_users_and_scheduled_syncs_start_no_cooldown(
    connection: Connection, ada: str
) -> None:
    add_user(connection, "bob")
    finish_request(connection, by_function(connection, "bob"), "0 seconds")
    connection.execute(
        update(t.sync_state).values(last_synced_at=func.now(), last_success_at=func.now())
    )
    assert by_function(connection) in open_ids(connection)
