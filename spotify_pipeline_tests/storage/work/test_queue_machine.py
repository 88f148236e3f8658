"""Random histories of the queue: users press Sync, runs start, fail, die or come late, nights pass.

A model in Python says what the database has to answer. Whatever happens, nobody ever has two open
requests, no accepted request is lost, and none is accepted before the wait is over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, func, select, update

from spotify_pipeline.app import (
    Refused,
    connect_user,
    disconnect_user,
    forget_user,
    register_user,
    request_sync,
    sync_status,
)
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import sync_requests
from spotify_pipeline.storage.work.sync_runs import SyncResult, save_results
from spotify_pipeline_tests.storage.rows import NOON
from spotify_pipeline_tests.storage.work.asking import by_function, plain_insert, refusal

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
TRANSIENT = {
    "SPOTIFY_UNAVAILABLE",
    "RATE_LIMITED",
    "QUOTA_EXCEEDED",
    "BAD_RESPONSE",
    "CRASHED",
    "INTERNAL",
}


@dataclass
class Asked:
    """A request that was accepted, as it has to stand."""

    id: int
    status: str = "queued"
    key: str | None = None
    failures: int = 0
    code: str | None = None
    ended_at: datetime = NOON


@dataclass
class UserModel:
    """A state machine; a forgotten user is registered again."""

    user_id: str
    connected: bool = False
    asked: list[Asked] = field(default_factory=list)
    old_keys: set[str] = field(default_factory=set)

    @property
    def open(self) -> Asked | None:
        last = self.asked[-1] if self.asked else None
        return last if last and last.status in ("queued", "running") else None

    def allowed_at(self, cooldown: timedelta) -> datetime:
        """When the next request is accepted, by the words of the README."""
        ended = [
            request for request in reversed(self.asked) if request.status in ("succeeded", "failed")
        ]
        waits = [request.ended_at + cooldown for request in ended if request.status == "succeeded"][
            :1
        ]
        series = list(takewhile(lambda request: request.code in TRANSIENT, ended))
        if series:
            waits.append(series[0].ended_at + min(MINUTE * 2 ** len(series), HOUR))
        return max(waits, default=datetime.min.replace(tzinfo=UTC))


def queue_machine(db: Connection) -> type[RuleBasedStateMachine]:
    """The machine on this database. Every run has a user of its own."""
    r = t.sync_requests

    def within(call: Callable[..., Any], *args: object) -> Any:
        """The call in a transaction of its own, as the pipeline makes it."""
        with db.engine.begin() as conn:
            return call(conn, *args)

    class Queue(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.user = UserModel(uuid4().hex)
            self.cooldown = HOUR
            db.execute(update(t.settings).values(request_cooldown=HOUR))
            self.come()

        def come(self) -> None:
            register_user(db, self.user.user_id, "Europe/Oslo", None)
            self.connect()

        def teardown(self) -> None:
            forget_user(db, self.user.user_id)

        @rule(by_insert=st.booleans())
        def press(self, by_insert: bool) -> None:
            user_id, was_open = self.user.user_id, self.user.open
            allowed_at = self.user.allowed_at(self.cooldown)
            now = db.scalar(select(func.clock_timestamp()))
            if not self.user.connected:
                assert refusal(db, plain_insert, user_id).sqlstate == "SP409"
                self.connect()
            elif was_open and by_insert:
                assert plain_insert(db, user_id) is None
            elif was_open:
                assert request_sync(db, user_id).request_id == was_open.id
            elif now < allowed_at:
                with pytest.raises(Refused) as refused:
                    request_sync(db, user_id)
                assert (refused.value.sqlstate, refused.value.retry_at) == ("SP429", allowed_at)
            else:
                ask = plain_insert if by_insert else by_function
                new = ask(db, user_id)
                assert new is not None
                self.user.asked.append(Asked(new))

        @rule()
        def assign(self) -> None:
            for assigned in sync_requests.assign(db):
                asked = self.user.open
                assert asked is not None
                assert assigned.user_id == self.user.user_id
                assert asked.key is None
                asked.key = assigned.dispatch_key
            assert not sync_requests.any_waiting(db)

        @precondition(lambda self: self.user.open and self.user.open.key)
        @rule()
        def start(self) -> None:
            within(sync_requests.start, self.key, "run")
            self.open.status = "running"

        @precondition(lambda self: self.user.open)
        @rule(code=st.none() | st.sampled_from(ErrorCode))
        def serve(self, code: ErrorCode | None) -> None:
            """The usual way from wherever it stands, to success or to any failure."""
            if not self.open.key:
                db.execute(update(r).values(not_before=None))
                self.assign()
            self.start()
            verdict = None if code is None else (code, WHAT_TO_DO[code])
            within(sync_requests.finish, self.key, verdict, [self.user.user_id])
            self.end(code)

        @precondition(lambda self: self.user.open and self.user.open.key)
        @rule()
        def crash(self) -> None:
            crashed = (ErrorCode.CRASHED, WHAT_TO_DO[ErrorCode.CRASHED])
            within(sync_requests.retry, self.key, crashed)
            self.open.failures += 1
            if self.open.failures == sync_requests.MOST_FAILURES:
                self.end(ErrorCode.CRASHED)
            else:
                self.back_to_the_queue()

        @precondition(lambda self: self.user.open and self.user.open.key)
        @rule()
        def blocked(self) -> None:
            within(sync_requests.put_back, self.key, [self.user.user_id])
            self.back_to_the_queue()

        @precondition(lambda self: self.user.old_keys)
        @rule(code=st.none() | st.sampled_from(ErrorCode), data=st.data())
        def late(self, code: ErrorCode | None, data: st.DataObject) -> None:
            """A run of the past wakes up and answers under its key."""
            key = data.draw(st.sampled_from(sorted(self.user.old_keys)))
            verdict = None if code is None else (code, WHAT_TO_DO[code])
            assert within(sync_requests.start, key, "late") == []
            within(sync_requests.finish, key, verdict, [self.user.user_id])
            within(sync_requests.put_back, key, [self.user.user_id])

        @rule(failed=st.booleans())
        def nightly(self, failed: bool) -> None:
            """A scheduled sync writes its result: it changes no cooldown."""
            code = ErrorCode.SPOTIFY_UNAVAILABLE if failed else None
            save_results(
                db,
                [
                    SyncResult(
                        user_id=self.user.user_id,
                        synced_at=datetime.now(UTC),
                        anything_done=not failed,
                        everything_done=not failed,
                        plays_fetched=not failed,
                        tops_fetched=not failed,
                        next_due_at=None,
                        error_code=code,
                        error_message=code and WHAT_TO_DO[code],
                    )
                ],
            )

        @rule(minutes=st.sampled_from([1, 5, 31, 61]))
        def time_passes(self, minutes: int) -> None:
            passed = minutes * MINUTE
            db.execute(
                update(r)
                .where(r.c.user_id == self.user.user_id)
                .values(finished_at=r.c.finished_at - passed, not_before=r.c.not_before - passed)
            )
            for asked in self.user.asked:
                asked.ended_at -= passed

        @rule(cooldown=st.sampled_from([timedelta(0), 10 * MINUTE, HOUR]))
        def tune(self, cooldown: timedelta) -> None:
            db.execute(update(t.settings).values(request_cooldown=cooldown))
            self.cooldown = cooldown

        def connect(self) -> None:
            connect_user(
                db,
                self.user.user_id,
                client_id="app",
                sealed_refresh_token=b"sealed",
                key_id="k1",
                scopes=[],
                authorized_at=datetime.now(UTC),
            )
            self.user.connected = True

        @rule()
        def disconnect(self) -> None:
            disconnect_user(db, self.user.user_id)
            self.user.connected = False
            if self.user.open:
                self.end(ErrorCode.CANCELLED)

        @rule()
        def forget(self) -> None:
            forget_user(db, self.user.user_id)
            assert refusal(db, plain_insert, self.user.user_id).sqlstate == "SP404"
            # What was under way answers a request that is gone.
            self.user = UserModel(self.user.user_id, old_keys=self.keys())
            self.come()

        @invariant()
        def nobody_is_lost_and_nobody_is_served_twice(self) -> None:
            rows = db.execute(
                select(r.c.id, r.c.status, r.c.dispatch_key, r.c.error_code)
                .where(r.c.user_id == self.user.user_id)
                .order_by(r.c.id)
            ).all()
            assert rows == [(a.id, a.status, a.key, a.code) for a in self.user.asked]
            assert sum(row.status in ("queued", "running") for row in rows) <= 1

        @invariant()
        def the_countdown_is_right(self) -> None:
            allowed_at = self.user.allowed_at(self.cooldown)
            shown = sync_status(db, self.user.user_id).next_allowed_at
            now = db.scalar(select(func.clock_timestamp()))
            assert shown == (allowed_at if now < allowed_at else None)

        @property
        def open(self) -> Asked:
            assert self.user.open is not None
            return self.user.open

        @property
        def key(self) -> str:
            assert self.open.key is not None
            return self.open.key

        def keys(self) -> set[str]:
            return self.user.old_keys | {request.key for request in self.user.asked if request.key}

        def back_to_the_queue(self) -> None:
            self.user.old_keys.add(self.key)
            self.open.status, self.open.key = "queued", None

        def end(self, code: ErrorCode | None) -> None:
            asked = self.open
            asked.status = "failed" if code else "succeeded"
            asked.code = code
            asked.ended_at = db.scalar(select(r.c.finished_at).where(r.c.id == asked.id))

    return Queue


@pytest.mark.hypothesis
def test_the_queue_keeps_its_invariants_in_any_sequence_of_operations(
    connection: Connection,
) -> None:
    many = settings.default.max_examples
    run_state_machine_as_test(
        queue_machine(connection),
        settings=settings(max_examples=many // 5, stateful_step_count=50, deadline=None),
    )
