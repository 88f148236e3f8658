"""Ticks wait for work: a notification of Postgres ends the wait, and nothing depends on it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.imports.uploads import closed_uploads
from spotify_pipeline.storage.postgres.engine import POOLED, make_engine
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline.storage.work import sync_requests
from spotify_pipeline.sync import pipeline as waits
from spotify_pipeline_tests.exports.rows import extended
from spotify_pipeline_tests.storage.embedded.processes import until
from spotify_pipeline_tests.storage.rows import add_user, request_sync
from spotify_pipeline_tests.storage.work.asking import Ask, both_ways, by_function
from spotify_pipeline_tests.sync.imports.export_files import hand_over
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

LONG = 600.0
# Until when a wait that something has ended returns on a busy machine.
SOON = 30.0
LISTENING = text("SELECT count(*) FROM pg_listening_channels()")


@pytest.fixture
def ada(scenario: Scenario) -> Scenario:
    """Ada, connected as far as the database knows."""
    with scenario.pipeline.engine.begin() as conn:
        add_user(conn)
    return scenario


@pytest.fixture
def only_notified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait ends with a notification or hardly ever."""
    monkeypatch.setattr(waits, "LISTENING_SECONDS", LONG)


@contextmanager
def waiting(
    scenario: Scenario, there: Callable[[Connection], object]
) -> Iterator[tuple[int, "Future[None]"]]:
    """A tick that has found nothing and waits: the pid of its session, and its end."""
    asked = threading.Event()
    pids = []

    def asked_once(conn: Connection) -> object:
        pids.append(conn.scalar(text("SELECT pg_backend_pid()")))
        found = there(conn)
        asked.set()
        return found

    with ThreadPoolExecutor(1) as threads:
        ends = threads.submit(scenario.pipeline.wait_for, asked_once, LONG, notified=True)
        assert asked.wait(SOON)
        yield pids[0], ends


def request(scenario: Scenario, ask: Ask, level: str = "READ COMMITTED") -> None:
    """The app requests a sync."""
    with scenario.pipeline.engine.execution_options(isolation_level=level).begin() as conn:
        conn.execute(text("SET LOCAL ROLE spotify_app"))
        ask(conn)


@both_ways
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.usefixtures("only_notified")
def test_a_request_ends_the_wait_at_once(ada: Scenario, ask: Ask, level: str) -> None:
    with waiting(ada, sync_requests.any_waiting) as (_, ends):
        request(ada, ask, level)
        ends.result(SOON)


@pytest.mark.usefixtures("only_notified")
def test_a_closed_upload_ends_the_wait_at_once(ada: Scenario, tmp_path: Path) -> None:
    with waiting(ada, closed_uploads) as (_, ends):
        hand_over(ada.pipeline, tmp_path, [extended()])
        ends.result(SOON)


@both_ways
def test_a_request_without_a_notification_is_found(ada: Scenario, ask: Ask) -> None:
    ada.execute(
        "CREATE OR REPLACE FUNCTION spotify_pipeline.notify_work() RETURNS void LANGUAGE sql AS ''"
    )
    with waiting(ada, sync_requests.any_waiting) as (_, ends):
        request(ada, ask)
        ends.result(SOON)


def test_a_request_beside_one_that_is_not_committed_is_found(ada: Scenario) -> None:
    """The other transaction has the lock that lets one of them notify."""
    with ada.pipeline.engine.begin() as conn:
        add_user(conn, "ben")
    with (
        waiting(ada, sync_requests.any_waiting) as (_, ends),
        ada.pipeline.engine.connect() as uncommitted,
    ):
        request_sync(uncommitted, "ben")
        request(ada, by_function)
        ends.result(SOON)


def test_behind_a_pooler_a_wait_finds_requests_and_does_not_listen(ada: Scenario) -> None:
    listened = []

    def note(conn: Connection) -> object:
        listened.append(conn.scalar(LISTENING))
        return sync_requests.any_waiting(conn)

    @event.listens_for(ada.pipeline.engine, "checkout")
    def pooled(connection: object, record: "event.ConnectionPoolEntry", proxy: object) -> None:
        record.info[POOLED] = True

    with waiting(ada, note) as (_, ends):
        ada.execute("INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES ('ada')")
        ends.result(SOON)
    assert set(listened) == {0}


def test_a_request_that_becomes_due_by_time_alone_is_found(ada: Scenario) -> None:
    ada.execute("INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES ('ada')")
    ada.execute("UPDATE spotify_pipeline.sync_requests SET not_before = now() + interval '2 s'")
    with waiting(ada, sync_requests.any_waiting) as (_, ends):
        assert not ends.done()
        ends.result(SOON)


@pytest.mark.usefixtures("only_notified")
def test_a_lost_connection_ends_the_wait_with_an_error_of_the_database(ada: Scenario) -> None:
    with waiting(ada, sync_requests.any_waiting) as (pid, ends):
        ada.execute("SELECT pg_terminate_backend(:pid)", pid=pid)
        with pytest.raises(OperationalError):
            ends.result(SOON)
    with ada.pipeline.engine.connect() as conn:
        assert conn.scalar(LISTENING) == 0


def test_a_connection_that_was_waited_on_listens_no_longer(ada: Scenario) -> None:
    def fail(conn: Connection) -> object:
        assert conn.scalar(LISTENING) == 1
        raise LookupError

    ada.pipeline.wait_for(lambda conn: conn.scalar(LISTENING) == 1, LONG, notified=True)
    with pytest.raises(LookupError):
        ada.pipeline.wait_for(fail, LONG, notified=True)
    for _ in range(2):
        with ada.pipeline.engine.connect() as conn:
            assert conn.scalar(LISTENING) == 0


def test_an_app_with_two_phase_commit_requests_a_sync(tmp_path: Path) -> None:
    """Postgres prepares no transaction that notifies."""
    home = tmp_path / "home"
    with embedded.start(home) as server:
        engine = make_engine(server.url())
        init_db(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            add_user(conn)
            conn.execute(text("ALTER SYSTEM SET max_prepared_transactions = 1"))
        engine.dispose()
    until(lambda: embedded.running_server(home) is None)
    with embedded.start(home) as server:
        engine = make_engine(server.url())
        with engine.connect() as conn, conn.begin_twophase() as transaction:
            request_sync(conn)
            transaction.prepare()
            transaction.commit()
        with engine.connect() as conn:
            assert sync_requests.any_waiting(conn)
        engine.dispose()
