"""Sync requests: their assignment to runs, their answers, and retries."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.outcome import RECENTLY_PLAYED, StepFailure, UserOutcome
from spotify_pipeline.simulator.faults.refusals import Forbidden, ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import sync_requests, sync_runs
from spotify_pipeline.storage.work.leases import Lease, leased
from spotify_pipeline.sync import requests, users
from spotify_pipeline.sync.requests import answer_requests, enlist_requests
from spotify_pipeline.sync.runs import ENLISTED, choose, sync_chunk
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario


def press(scenario: Scenario, *user_ids: str) -> None:
    """Requests a sync for each of these users."""
    for user_id in user_ids:
        scenario.execute(
            "INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u)", u=user_id
        )


def assign(scenario: Scenario) -> list[str]:
    """Assigns waiting requests as the sensor does; returns the distinct dispatch keys."""
    with scenario.pipeline.engine.begin() as conn:
        return list(dict.fromkeys(request.dispatch_key for request in sync_requests.assign(conn)))


def ask(scenario: Scenario, *user_ids: str) -> str:
    """Requests a sync and assigns it: returns the one dispatch key."""
    press(scenario, *user_ids)
    (key,) = assign(scenario)
    return key


def answer(scenario: Scenario, key: str, run_id: str = "a run") -> list[UserOutcome]:
    """A run answers the requests under the key."""
    return answer_requests(scenario.pipeline, key, run_id)


def request(scenario: Scenario, user_id: str) -> dict[str, object]:
    return scenario.rows(t.sync_requests, user_id)[-1]


def let_the_pause_pass(scenario: Scenario) -> None:
    scenario.execute(
        "UPDATE spotify_pipeline.sync_requests SET not_before = now() WHERE not_before IS NOT NULL"
    )


@pytest.fixture
def anna(scenario: Scenario) -> Scenario:
    scenario.connect("anna", kind="light")
    return scenario


# --- assigning ---


def test_few_requests_get_a_dispatch_key_each_and_many_share_one(scenario: Scenario) -> None:
    connect_users = [f"user{n}" for n in range(9)]
    for user_id in connect_users:
        scenario.execute(
            "INSERT INTO spotify_pipeline.users (user_id, connection) VALUES (:u, 'connected')",
            u=user_id,
        )
    press(scenario, *connect_users[:4])
    keys = assign(scenario)
    assert [key[:-37] for key in keys] == [f"request-{n}-1" for n in (1, 2, 3, 4)]
    assert len({UUID(key[-36:]) for key in keys}) == 4
    press(scenario, *connect_users[4:])
    (batch,) = assign(scenario)
    assert batch.startswith("batch-")
    assert sync_requests.is_batch(batch)
    assert assign(scenario) == []
    assert [row["attempts"] for row in scenario.rows(t.sync_requests)] == [1] * 9


def press_as(scenario: Scenario, asker: str, *user_ids: str) -> None:
    """Requests a sync for each of these new users, as this app."""
    for user_id in user_ids:
        scenario.execute(
            "INSERT INTO spotify_pipeline.users (user_id, connection) VALUES (:u, 'connected')",
            u=user_id,
        )
        scenario.execute(
            "INSERT INTO spotify_pipeline.sync_requests (user_id, requested_by) VALUES (:u, :by)",
            u=user_id,
            by=asker,
        )


def users_by_key(scenario: Scenario) -> dict[str, list[str]]:
    """Assigns waiting requests; the users of each dispatch key, which is cut to its first word."""
    keys: dict[str, list[str]] = {}
    with scenario.pipeline.engine.begin() as conn:
        for dispatch in sync_requests.assign(conn):
            keys.setdefault(dispatch.dispatch_key, []).append(dispatch.user_id)
    return {f"{key.split('-')[0]} {n}": users for n, (key, users) in enumerate(keys.items())}


def test_of_a_flood_the_few_requests_of_another_app_get_runs_of_their_own(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_requests, "BATCH_REQUESTS", 3)
    press_as(scenario, "flood", *(f"flood{n}" for n in range(5)))
    press_as(scenario, "web", "anna")
    assert users_by_key(scenario) == {
        "batch 0": ["flood0", "flood1", "flood2"],
        "batch 1": ["flood3", "flood4"],
        "request 2": ["anna"],
    }


def test_apps_with_many_requests_take_turns(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_requests, "BATCH_REQUESTS", 4)
    monkeypatch.setattr(sync_requests, "MOST_BATCHES", 2)
    press_as(scenario, "flood", *(f"flood{n}" for n in range(7)))
    for user in range(5):
        press_as(scenario, f"web of user{user}", f"user{user}")
    # No more runs than two, so each gets longer.
    assert users_by_key(scenario) == {
        "batch 0": ["flood0", *(f"user{n}" for n in range(5))],
        "batch 1": [f"flood{n}" for n in range(1, 7)],
    }


def test_two_sensors_that_assign_at_once_assign_each_request_once(anna: Scenario) -> None:
    press(anna, "anna")
    with anna.pipeline.engine.begin() as first, anna.pipeline.engine.begin() as second:
        assert len(sync_requests.assign(first)) == 1
        assert sync_requests.assign(second) == []


def test_a_request_keeps_its_key_until_it_is_answered(scenario: Scenario) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id, kind="light")
    key, other = ask(scenario, "anna"), ask(scenario, "ben")
    with scenario.pipeline.engine.begin() as conn:
        assert [one.dispatch_key for one in sync_requests.dispatched(conn)] == [key, other]
        assert sync_requests.start(conn, key, "a run") == ["anna"]
        assert [(one.status, one.run_id) for one in sync_requests.dispatched(conn)] == [
            ("running", "a run"),
            ("queued", None),
        ]
        assert sync_requests.close_open(conn, key, ErrorCode.CANCELLED) == 1
        assert sync_requests.close_open(conn, key, ErrorCode.CANCELLED) == 0
        assert [one.user_id for one in sync_requests.dispatched(conn)] == ["ben"]
    assert request(scenario, "anna")["error_code"] == "CANCELLED"


def test_a_wait_ends_as_soon_as_a_request_arrives(anna: Scenario) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        press(anna, "anna")

    pipeline = replace(anna.pipeline, sleep=sleep)
    pipeline.wait_for(sync_requests.any_waiting, 60)
    assert len(slept) == 1
    pipeline.wait_for(sync_requests.any_waiting, 60)
    assert len(slept) == 1


# --- answers ---


def test_an_answered_request_says_how_the_sync_went(anna: Scenario) -> None:
    key = ask(anna, "anna")
    seen: list[object] = []

    def emit(outcomes: Sequence[UserOutcome]) -> None:
        seen.append(([o.user_id for o in outcomes], request(anna, "anna")["status"]))

    answer_requests(anna.pipeline, key, "a run", emit=emit)
    row = request(anna, "anna")
    # Emitted before it is answered: an answered request is never read again.
    assert seen == [(["anna"], "running")]
    assert (row["status"], row["run_id"], row["error_code"]) == ("succeeded", "a run", None)
    with anna.pipeline.engine.connect() as conn:
        state = conn.execute(text("SELECT state FROM spotify_pipeline.sync_status")).scalar()
    assert state == "idle"


def test_a_permanent_error_fails_the_request_without_a_retry(anna: Scenario) -> None:
    anna.simulator.revoke("anna")
    answer(anna, ask(anna, "anna"))
    row = request(anna, "anna")
    assert (row["status"], row["error_code"]) == ("failed", "RECONNECT")
    assert row["error_message"] == WHAT_TO_DO[ErrorCode.RECONNECT]


def test_permanent_errors_outrank_transient_ones(anna: Scenario) -> None:
    anna.simulator.add_fault(ServerError(), endpoint="recently_played")
    anna.simulator.add_fault(Forbidden(), endpoint="top_artists")
    answer(anna, ask(anna, "anna"))
    row = request(anna, "anna")
    assert row["status"] == "failed"
    assert row["error_code"] not in ("SPOTIFY_UNAVAILABLE", None)


def test_transient_errors_are_retried_three_times_with_growing_pauses(anna: Scenario) -> None:
    """Also for a partly failed sync: only the top tracks fail."""
    anna.simulator.add_fault(ServerError(), endpoint="top_tracks")
    keys, pauses = [ask(anna, "anna")], []
    for _ in range(2):
        answer(anna, keys[-1])
        row = request(anna, "anna")
        assert (row["status"], row["error_code"], row["run_id"]) == ("queued", None, None)
        assert isinstance(row["not_before"], datetime)
        pauses.append((row["not_before"] - datetime.now(UTC)).total_seconds())
        assert assign(anna) == []
        let_the_pause_pass(anna)
        keys += assign(anna)
    answer(anna, keys[-1])
    row = request(anna, "anna")
    assert (row["status"], row["error_code"]) == ("failed", "SPOTIFY_UNAVAILABLE")
    assert (row["attempts"], row["failures"]) == (3, 3)
    assert [key[:-37] for key in keys] == [f"request-{row['id']}-{n}" for n in (1, 2, 3)]
    assert pauses == pytest.approx([10, 40], abs=3)


def test_a_second_attempt_may_succeed(anna: Scenario) -> None:
    fault = anna.simulator.add_fault(ServerError(), endpoint="recently_played")
    answer(anna, ask(anna, "anna"))
    anna.simulator.clear_faults(fault)
    let_the_pause_pass(anna)
    answer(anna, *assign(anna))
    row = request(anna, "anna")
    assert (row["status"], row["attempts"], row["failures"]) == ("succeeded", 2, 1)


def test_an_unexpected_exception_fails_the_request_and_propagates(
    anna: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> list[UserOutcome]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(requests, "sync_users", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        answer(anna, ask(anna, "anna"))
    assert request(anna, "anna")["error_code"] == "INTERNAL"


def test_a_lost_postgres_leaves_the_request_to_the_reconciler(
    anna: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> list[UserOutcome]:
        raise OperationalError("SELECT", {}, Exception("terminating connection"))

    monkeypatch.setattr(requests, "sync_users", fail)
    with pytest.raises(OperationalError):
        answer(anna, ask(anna, "anna"))
    assert (request(anna, "anna")["status"], request(anna, "anna")["run_id"]) == (
        "running",
        "a run",
    )


def test_a_run_for_an_answered_request_does_nothing(anna: Scenario) -> None:
    """As if a run started late, after another had done its work."""
    key = ask(anna, "anna")
    answer(anna, key)
    before, calls = request(anna, "anna"), len(anna.calls())
    assert answer(anna, key, "another run") == []
    assert request(anna, "anna") == before
    assert len(anna.calls()) == calls


def test_updates_under_an_older_dispatch_key_change_nothing(anna: Scenario) -> None:
    old = ask(anna, "anna")
    crashed = (ErrorCode.CRASHED, WHAT_TO_DO[ErrorCode.CRASHED])
    with anna.pipeline.engine.begin() as conn:
        sync_requests.start(conn, old, "a run that is slow and not dead")
        assert sync_requests.retry(conn, old, crashed) == sync_requests.Retried(again=1, failed=0)
    let_the_pause_pass(anna)
    (new,) = assign(anna)
    before = request(anna, "anna")
    with anna.pipeline.engine.begin() as conn:
        sync_requests.finish(conn, old, None, ["anna"])
        sync_requests.put_back(conn, old, ["anna"])
        assert sync_requests.retry(conn, old, crashed) == sync_requests.Retried(again=0, failed=0)
        assert sync_requests.close_open(conn, old, ErrorCode.CANCELLED) == 0
        assert sync_requests.start(conn, old, "late") == []
    assert request(anna, "anna") == before
    assert before["dispatch_key"] == new


# --- other syncs of the same user ---


@dataclass
class Clock:
    """A clock that only sleeping moves; a callback runs during the first sleep."""

    scenario: Scenario
    happens: Callable[[], None] = lambda: None
    now: float = 0.0

    def sleep(self, seconds: float) -> None:
        if self.now == 0:
            self.happens()
        self.now += seconds

    def answer(self, key: str) -> list[UserOutcome]:
        """`answer`, with this clock."""
        pipeline = replace(self.scenario.pipeline, sleep=self.sleep, monotonic=lambda: self.now)
        return answer_requests(pipeline, key, "a run")


def full_syncs(scenario: Scenario) -> int:
    return len(scenario.calls("recently_played", "anna"))


def test_a_complete_sync_of_another_process_answers_the_request(anna: Scenario) -> None:
    key = ask(anna, "anna")
    with ExitStack() as other:
        other.enter_context(leased(anna.pipeline.engine, ["anna"]))

        def end() -> None:
            other.close()
            anna.sync_well("anna")

        (outcome,) = Clock(anna, end).answer(key)
    assert outcome.result == "synced"
    assert request(anna, "anna")["status"] == "succeeded"
    assert full_syncs(anna) == 1


def test_a_sync_of_plays_only_does_not_answer_a_request(anna: Scenario) -> None:
    key = ask(anna, "anna")
    anna.sync_well("anna", steps=[RECENTLY_PLAYED])
    answer(anna, key)
    assert request(anna, "anna")["status"] == "succeeded"
    assert full_syncs(anna) == 2
    assert len(anna.calls("top_artists")) == 3


def test_plays_and_lists_of_two_syncs_do_not_answer_a_request(anna: Scenario) -> None:
    anna.sync_well("anna")
    key = ask(anna, "anna")
    anna.at(anna.clock.instant + timedelta(hours=1))
    anna.sync_well("anna", steps=[RECENTLY_PLAYED])
    answer(anna, key)
    assert full_syncs(anna) == 3


def test_a_sync_before_the_request_does_not_answer_it(anna: Scenario) -> None:
    anna.sync_well("anna")
    answer(anna, ask(anna, "anna"))
    assert full_syncs(anna) == 2


def test_a_request_whose_run_died_after_it_wrote_everything_is_done_without_a_call(
    anna: Scenario,
) -> None:
    key = ask(anna, "anna")
    anna.sync_well("anna")
    calls = len(anna.calls())
    answer(anna, key)
    assert request(anna, "anna")["status"] == "succeeded"
    assert len(anna.calls()) == calls


def test_a_request_of_a_busy_user_is_retried_and_then_fails_with_the_reason(anna: Scenario) -> None:
    press(anna, "anna")
    with leased(anna.pipeline.engine, ["anna"]):
        for _ in range(3):
            let_the_pause_pass(anna)
            clock = Clock(anna)
            clock.answer(*assign(anna))
            assert clock.now == pytest.approx(30, abs=1)
    row = request(anna, "anna")
    assert (row["status"], row["error_code"]) == ("failed", "INTERNAL")
    assert "Another sync" in str(row["error_message"])


# --- many in one run ---


def test_a_run_for_many_answers_each_chunk_as_soon_as_it_is_done(scenario: Scenario) -> None:
    connect_users = [f"user{n}" for n in range(6)]
    for user_id in connect_users:
        scenario.connect(user_id, kind="light")
    scenario.simulator.revoke("user5")
    key = ask(scenario, *connect_users)
    enlist_requests(scenario.pipeline, key, "run", 3)
    assert {row["status"] for row in scenario.rows(t.sync_requests)} == {"running"}
    assert choose(scenario.pipeline, "run", ENLISTED, 3) == 2
    with sync_chunk(scenario.pipeline, "run", 0, dispatch_key=key):
        pass
    assert [request(scenario, user_id)["status"] for user_id in connect_users] == [
        *["succeeded"] * 3,
        *["running"] * 3,
    ]
    with sync_chunk(scenario.pipeline, "run", 1, dispatch_key=key):
        pass
    assert [request(scenario, user_id)["status"] for user_id in connect_users] == [
        *["succeeded"] * 5,
        "failed",
    ]
    with scenario.pipeline.engine.connect() as conn:
        assert [user.outcome for user in sync_runs.run_users(conn, "run")] == ["synced"] * 5 + [
            "failed"
        ]


def test_many_requests_are_answered_with_a_statement_per_outcome(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario.execute(
        "INSERT INTO spotify_pipeline.users (user_id, connection)"
        " SELECT 'user' || n, 'connected' FROM generate_series(1, 300) AS n"
    )
    scenario.execute(
        "INSERT INTO spotify_pipeline.sync_requests (user_id) SELECT user_id"
        " FROM spotify_pipeline.users"
    )
    reconnect, down = ErrorCode.RECONNECT, ErrorCode.SPOTIFY_UNAVAILABLE
    codes = (None, reconnect, down)

    def fetch_and_write(
        _: object, lease: Lease, *__: object
    ) -> Generator[list[UserOutcome], None, None]:
        failures = cycle({RECENTLY_PLAYED: StepFailure(code, "")} if code else {} for code in codes)
        yield [UserOutcome(user_id, failures=next(failures)) for user_id in sorted(lease.held)]

    monkeypatch.setattr(users, "_fetch_and_write", fetch_and_write)

    (key,) = assign(scenario)
    updates: list[str] = []

    def note(*args: Any) -> None:
        if args[2].startswith("UPDATE spotify_pipeline.sync_requests"):
            updates.append(args[2])

    event.listen(scenario.pipeline.engine, "before_cursor_execute", note)
    answer(scenario, key)
    assert len(updates) == 1 + len(codes)
    rows = scenario.rows(t.sync_requests)
    assert Counter((row["status"], row["error_code"], row["failures"]) for row in rows) == {
        ("succeeded", None, 0): 100,
        ("failed", reconnect, 0): 100,
        ("queued", None, 1): 100,
    }
    # More users than a statement can have parameters.
    crowd = [f"nobody{n}" for n in range(70_000)]
    with scenario.pipeline.engine.begin() as conn:
        sync_requests.finish(conn, key, None, crowd)
        sync_requests.put_back(conn, key, crowd)
        assert sync_requests.retry(conn, key, (down, ""), crowd) == sync_requests.Retried(0, 0)


def test_a_busy_user_does_not_hold_up_the_others_of_a_run_for_many(scenario: Scenario) -> None:
    connect_users = [f"user{n}" for n in range(5)]
    for user_id in connect_users:
        scenario.connect(user_id, kind="light")
    key = ask(scenario, *connect_users)
    seen: list[object] = []
    with leased(scenario.pipeline.engine, ["user2"]):
        clock = Clock(
            scenario, lambda: seen.extend(row["status"] for row in scenario.rows(t.sync_requests))
        )
        clock.answer(key)
    assert seen == ["succeeded", "succeeded", "running", "succeeded", "succeeded"]
    assert request(scenario, "user2")["status"] == "queued"


def test_a_user_who_is_forgotten_takes_the_request_along(scenario: Scenario) -> None:
    connect_users = [f"user{n}" for n in range(5)]
    for user_id in connect_users:
        scenario.connect(user_id, kind="light")
    key = ask(scenario, *connect_users)
    answer(scenario.meanwhile("recently_played", lambda: scenario.forget("user3")), key)
    assert {row["status"] for row in scenario.rows(t.sync_requests)} == {"succeeded"}
    assert len(scenario.rows(t.sync_requests)) == 4
