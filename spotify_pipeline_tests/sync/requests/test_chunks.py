"""A chunk is written with few statements and no duplicates; a failure affects one user."""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from spotify_pipeline.domain.outcome import RECENTLY_PLAYED, UserOutcome
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.queries import User
from spotify_pipeline.sync import fetch, users, write
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.plays import StoredUser
from spotify_pipeline.sync.tokens import UserTokens
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

HOUR = timedelta(hours=1)
THREE = ("anna", "ben", "cleo")
# The first refresh of a token: its row, because it must not be lost, then the account id, each
# under a lock with a short time-out.
PER_USER = 11


def connect(scenario: Scenario, *names: str) -> None:
    """Connects users with a few plays each on Spotify's page."""
    for name in names:
        scenario.connect(name, kind="commuter", since=(NOON - timedelta(days=3)).date())
        scenario.serve_plays(name, [(NOON - HOUR * n, f"{name} {n}") for n in range(1, 4)])


def results(outcomes: list[UserOutcome]) -> dict[str, tuple[str, str | None]]:
    return {outcome.user_id: (outcome.result, outcome.error_code) for outcome in outcomes}


@pytest.fixture
def count_statements(scenario: Scenario) -> Callable[[], int]:
    """Returns a function for the number of statements since its last call."""
    sent: list[str] = []

    def note(*args: Any) -> None:
        # Periodic statements: the rate limiter once a second, the lease renewal every ten.
        if "api_budget" not in args[2] and "lease_until=" not in args[2]:
            sent.append(args[2])

    event.listen(scenario.pipeline.engine, "before_cursor_execute", note)

    def counted() -> int:
        number = len(sent)
        sent.clear()
        return number

    return counted


def test_the_statements_of_a_chunk_do_not_grow_with_its_users(
    scenario: Scenario, count_statements: Callable[[], int]
) -> None:
    few, many = [f"few {n}" for n in range(2)], [f"many {n}" for n in range(12)]
    connect(scenario, *few, *many)
    needed = []
    for names in (few, many):
        count_statements()
        scenario.sync_well(*names)
        needed.append(count_statements() - PER_USER * len(names))
    assert needed[1] - needed[0] <= 2
    # Again an hour later, with new plays and without new tokens.
    scenario.at(NOON + HOUR)
    for names in (few, many):
        for name in names:
            scenario.serve_plays(name, [(NOON, f"{name} 9"), (NOON - HOUR, f"{name} 1")])
        count_statements()
        assert {outcome.new_plays for outcome in scenario.sync_well(*names)} == {1}
        needed.append(count_statements())
    assert needed[3] - needed[2] <= 2


def test_fetched_users_are_written_while_others_are_fetched(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(scenario, *THREE)
    monkeypatch.setattr(users, "BATCH_USERS", 2)
    tokens = fetch._tokens

    def after_two_are_stored(pipeline: Pipeline, listener: User, *rest: Any) -> UserTokens:
        deadline = time.monotonic() + 30
        while listener.user_id == "cleo" and len(scenario.rows(t.fetch_log)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return tokens(pipeline, listener, *rest)

    monkeypatch.setattr(fetch, "_tokens", after_two_are_stored)
    assert [outcome.user_id for outcome in scenario.sync_well(*THREE)] == [*THREE]


def test_a_chunk_that_runs_twice_changes_nothing_twice(scenario: Scenario) -> None:
    connect(scenario, *THREE)
    scenario.sync_well(*THREE)
    before = scenario.dump(versions=True)
    assert len(before["plays"]) == 9
    outcomes = scenario.sync_well(*THREE)
    assert scenario.dump(versions=True) == before
    assert {(o.new_plays, o.done[RECENTLY_PLAYED].total) for o in outcomes} == {(0, 3)}


def test_each_new_play_is_counted_once_across_two_chunks(
    scenario: Scenario,
) -> None:
    connect(scenario, *THREE)
    first = scenario.sync_well(*THREE)
    scenario.at(NOON + HOUR)
    scenario.serve_plays("ben", [(NOON, "ben 9"), (NOON - HOUR, "ben 1")])
    second = scenario.sync_well(*THREE)
    assert [o.new_plays for o in (*first, *second)] == [3, 3, 3, 0, 1, 0]
    assert len(scenario.rows(t.plays)) == 10


@pytest.mark.parametrize("at_fault", ["recently_played", "refresh"])
def test_an_exception_in_one_users_response_fails_only_that_user(
    scenario: Scenario, at_fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    connect(scenario, *THREE)

    def fail() -> None:
        raise KeyError("something private")

    odd = scenario.meanwhile(at_fault, fail)
    outcomes = odd.sync(*THREE)
    assert sorted((o.result, o.error_code) for o in outcomes) == [
        ("failed", "INTERNAL"),
        ("synced", None),
        ("synced", None),
    ]
    (failed,) = (o.user_id for o in outcomes if o.failures)
    assert scenario.rows(t.plays, failed) == []
    assert scenario.row(t.sync_state, failed)["last_error_code"] == "INTERNAL"
    assert "KeyError at test_chunks.py" in caplog.text
    assert "private" not in caplog.text


def test_an_exception_while_computing_fails_only_its_user(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connect(scenario, *THREE)
    refresh_days = write.refresh_days

    def fail_for_ben(conn: Any, users: list[StoredUser], now: datetime, **options: bool) -> Any:
        written = refresh_days(conn, users, now, **options)
        if "ben" in {user.user_id for user in users}:
            raise ZeroDivisionError("ben")
        return written

    monkeypatch.setattr(write, "refresh_days", fail_for_ben)
    with caplog.at_level(logging.WARNING):
        outcomes = scenario.sync(*THREE)
    assert results(outcomes) == {
        "anna": ("synced", None),
        "ben": ("failed", "INTERNAL"),
        "cleo": ("synced", None),
    }
    # His plays were in the same transaction and are rolled back too.
    assert [len(scenario.rows(t.plays, name)) for name in THREE] == [3, 0, 3]
    assert "ben" not in caplog.text.replace("benchmarks", "")
    monkeypatch.undo()
    scenario.sync_well(*THREE)
    assert len(scenario.rows(t.daily_listening, "ben")) == 1


def test_a_user_forgotten_between_the_response_and_the_write_is_dropped(scenario: Scenario) -> None:
    connect(scenario, *THREE)
    leaving = scenario.meanwhile("top_tracks", lambda: scenario.forget("ben"))
    assert results(leaving.sync(*THREE)) == {
        "anna": ("synced", None),
        "ben": ("gone", None),
        "cleo": ("synced", None),
    }
    tables = (t.users, t.plays, t.user_top_tracks, t.sync_state, t.user_tokens)
    for table in tables:
        assert {row["user_id"] for row in scenario.rows(table)} == {"anna", "cleo"}
