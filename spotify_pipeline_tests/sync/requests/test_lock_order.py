"""Whatever a sync holds locked when an app's call arrives: neither waits for the other for ever."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest
from sqlalchemy import Engine, event

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import sync_requests
from spotify_pipeline.sync.requests import answer_requests
from spotify_pipeline_tests.sync.pipeline_fixture import SCOPES, Scenario

# `make soak` tries a call after each statement; here every STRIDE-th one has to do.
STRIDE = 1 if "SOAK" in os.environ else 9
CALLS = {
    "forget_user": "SELECT spotify_pipeline.forget_user(%(user_id)s)",
    "disconnect_user": "SELECT spotify_pipeline.disconnect_user(%(user_id)s)",
    "connect_user": (
        "SELECT spotify_pipeline.connect_user("
        "%(user_id)s, 'app', 'sealed', 'k1', %(scopes)s, now())"
    ),
    "request_sync": "SELECT spotify_pipeline.request_sync(%(user_id)s)",
    "register_user": "SELECT spotify_pipeline.register_user(%(user_id)s, 'Europe/Oslo')",
}


@contextmanager
def after_statement(engine: Engine, number: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Acts once, in the transaction of the `number`-th statement; yields the count of all."""
    count = [0]

    def counted(*_: object) -> None:
        count[0] += 1
        if count[0] == number:
            act()

    event.listen(engine, "after_cursor_execute", counted)
    try:
        yield count
    finally:
        event.remove(engine, "after_cursor_execute", counted)


class AppCall:
    """A call of the app in a session of its own, which ends or waits for a lock."""

    def __init__(self, scenario: Scenario, threads: ThreadPoolExecutor, call: str) -> None:
        url = scenario.pipeline.engine.url.set(drivername="postgresql")
        self._address = url.render_as_string(hide_password=False)
        self._threads = threads
        self._call = call
        self.ended: Future[None] | None = None

    def begin(self, user_id: str) -> None:
        """Returns when the call has ended or waits."""
        with psycopg.connect(self._address, autocommit=True) as watcher:
            app = psycopg.connect(self._address)
            app.execute("SET ROLE spotify_app")
            self.ended = self._threads.submit(self._run, app, user_id)
            deadline = time.monotonic() + 10
            while not self.ended.done() and time.monotonic() < deadline:
                waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
                if watcher.execute(waits, [app.info.backend_pid]).fetchone() == (True,):
                    return
                time.sleep(0.002)

    def _run(self, app: psycopg.Connection, user_id: str) -> None:
        with app:
            app.execute(self._call, {"user_id": user_id, "scopes": list(SCOPES)})


def request_and_answer(scenario: Scenario, user_id: str) -> None:
    """A request, from its dispatch to its answer."""
    with scenario.pipeline.engine.begin() as conn:
        key = next(d.dispatch_key for d in sync_requests.assign(conn) if d.user_id == user_id)
    answer_requests(scenario.pipeline, key, key)


@pytest.mark.timeout(60 if STRIDE > 1 else 900)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_arrives_after_any_statement_of_a_sync_causes_no_deadlock(
    scenario: Scenario, call: str
) -> None:
    scenario.execute("UPDATE spotify_pipeline.settings SET request_cooldown = '0'")
    engine = scenario.pipeline.engine
    number = first = 1 + list(CALLS).index(call) * STRIDE // len(CALLS)
    with ThreadPoolExecutor(1) as threads:
        while True:
            user_id = f"user{number}"
            scenario.connect(user_id, kind="light")
            scenario.execute("SELECT spotify_pipeline.request_sync(:u)", u=user_id)
            app = AppCall(scenario, threads, CALLS[call])
            with after_statement(engine, number, partial(app.begin, user_id)) as count:
                request_and_answer(scenario, user_id)
            if app.ended is None:
                break
            app.ended.result(timeout=30)
            exists = bool(scenario.rows(t.users, user_id))
            assert exists == (call != "forget_user")
            number += STRIDE
    assert count[0] < number
    assert number > first + 40
