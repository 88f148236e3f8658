"""The life of a request: queued, running, succeeded or failed."""

import pytest
from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import add_user, cause, finish_request, request_sync


@pytest.fixture
def request_id(connection: Connection) -> int:
    """Ada's open request."""
    add_user(connection)
    return int(request_sync(connection).request_id)


def test_a_status_and_what_goes_with_it_agree(connection: Connection, request_id: int) -> None:
    for broken in (
        {"status": "paused"},
        {"status": "queued", "finished_at": func.now()},
        {"status": "failed"},
        {"status": "failed", "error_code": "OOPS"},
        {"status": "succeeded", "error_code": "INTERNAL"},
        {"status": "succeeded", "error_message": "but"},
        {"status": "running", "error_code": "INTERNAL"},
        {"attempts": -1},
        {"requested_by": ""},
        {"requested_by": "x" * 256},
    ):
        with pytest.raises(IntegrityError, match="ck_sync_requests_"):
            connection.execute(update(t.sync_requests).values(broken))


def test_the_database_stamps_start_and_end(connection: Connection, request_id: int) -> None:
    connection.execute(update(t.sync_requests).values(status="running"))
    connection.execute(update(t.sync_requests).values(status="succeeded"))
    (row,) = connection.execute(select(t.sync_requests)).all()
    assert row.requested_at <= row.started_at <= row.finished_at


@pytest.mark.parametrize("status", ["queued", "running", "failed"])
def test_a_finished_request_stays_finished(
    connection: Connection, request_id: int, status: str
) -> None:
    finish_request(connection, request_id, "0 seconds")
    code = "CRASHED" if status == "failed" else None
    with pytest.raises(DBAPIError, match="has succeeded and cannot become") as refused:
        connection.execute(
            update(t.sync_requests).values(status=status, finished_at=None, error_code=code)
        )
    assert cause(refused.value).sqlstate == "23514"


def test_a_running_request_may_go_back_to_the_queue(
    connection: Connection, request_id: int
) -> None:
    connection.execute(update(t.sync_requests).values(status="running"))
    connection.execute(update(t.sync_requests).values(status="queued", dispatch_key=None))
    again = request_sync(connection)
    assert (again.request_id, again.status) == (request_id, "queued")
