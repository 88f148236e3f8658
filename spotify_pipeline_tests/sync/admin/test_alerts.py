"""Alerts: one per class and hour over all processes, in counts, tried again until they arrive."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import api_budget
from spotify_pipeline.sync.admin import maintenance
from spotify_pipeline.sync.admin.maintenance import WHAT_TO_DO, notify_operator
from spotify_pipeline_tests.spotify.server import (
    ScriptedServer,
    Step,
    answer,
    dripping,
    reset,
    silence,
)
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

SECRET = "hook-secret"
USERS = ("anna", "ben", "cleo")


@pytest.fixture
def operator() -> Iterator[ScriptedServer]:
    operator = ScriptedServer([answer(204)])
    yield operator
    operator.close()


@pytest.fixture
def watched(open_another: Callable[..., Scenario], operator: ScriptedServer) -> Scenario:
    """A scenario with three users and an operator with an alert URL."""
    scenario = open_another(SPOTIFY_PIPELINE_ALERT_URL=f"{operator.url}/{SECRET}")
    for user_id in USERS:
        scenario.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES (:u)", u=user_id)
    return scenario


def no_runs(since: datetime) -> int:
    return 0


def become(scenario: Scenario, connection: str, *user_ids: str) -> None:
    for user_id in user_ids:
        scenario.execute(
            "UPDATE spotify_pipeline.users SET connection = :c WHERE user_id = :u",
            c=connection,
            u=user_id,
        )


def pass_time(scenario: Scenario, **time: float) -> None:
    """Moves all sent and tried alerts so far into the past."""
    scenario.execute(
        "UPDATE spotify_pipeline.alerts "
        "SET since = since - :t, tried_at = tried_at - :t, sent_at = sent_at - :t",
        t=timedelta(**time),
    )


def open_gap(scenario: Scenario, user_id: str) -> None:
    scenario.execute(
        "INSERT INTO spotify_pipeline.listening_gaps (user_id, gap_start, gap_end, detected_at) "
        "VALUES (:u, clock_timestamp() - interval '2 hours', clock_timestamp(), clock_timestamp())",
        u=user_id,
    )


def alerts_sent(operator: ScriptedServer) -> list[tuple[str, int]]:
    bodies = [json.loads(call.body) for call in operator.seen]
    return [(body["event"], body["count"]) for body in bodies]


def test_every_event_is_sent_with_its_count_and_remedy(
    watched: Scenario, operator: ScriptedServer
) -> None:
    become(watched, "needs_reauth", "anna")
    become(watched, "suspect", "ben", "cleo")
    open_gap(watched, "anna")
    with watched.pipeline.engine.begin() as conn:
        api_budget.block(conn, 3600, "APP")
    sent = {"account_blocked": 1, "outage": 2, "users_to_reconnect": 1, "gaps_opened": 1}
    assert notify_operator(watched.pipeline, lambda since: 4) == sent | {"run_failed": 4}
    assert sorted(alerts_sent(operator)) == sorted((sent | {"run_failed": 4}).items())
    assert set(WHAT_TO_DO) == set(t.EVENTS)
    for call in operator.seen:
        body = json.loads(call.body)
        assert body.keys() == {"event", "count", "since", "message", "command"}
        assert datetime.fromisoformat(body["since"]).tzinfo
        assert not any(user_id.encode() in call.body for user_id in USERS)
        assert "authorization" not in call.headers


def test_a_request_without_a_run_is_alerted_until_a_run_starts(
    watched: Scenario, operator: ScriptedServer
) -> None:
    become(watched, "connected", "anna")
    watched.execute("SELECT spotify_pipeline.request_sync('anna')")
    assert notify_operator(watched.pipeline, no_runs) == {}
    watched.execute(
        "UPDATE spotify_pipeline.sync_requests SET requested_at = now() - interval '6 minutes'"
    )
    assert notify_operator(watched.pipeline, no_runs) == {"requests_waiting": 1}
    watched.execute("UPDATE spotify_pipeline.sync_requests SET status = 'running'")
    pass_time(watched, days=2)
    assert notify_operator(watched.pipeline, no_runs) == {}


def test_an_upload_that_no_run_imports_is_an_alert(
    watched: Scenario, operator: ScriptedServer
) -> None:
    watched.execute(
        "INSERT INTO spotify_pipeline.history_imports (user_id, status, closed_at, files)"
        " VALUES ('anna', 'closed', now() - interval '59 minutes', '[]')"
    )
    assert notify_operator(watched.pipeline, no_runs) == {}
    watched.execute(
        "UPDATE spotify_pipeline.history_imports SET closed_at = now() - interval '61 minutes'"
    )
    assert notify_operator(watched.pipeline, no_runs) == {"uploads_waiting": 1}


def test_no_alert_is_sent_without_an_event(watched: Scenario, operator: ScriptedServer) -> None:
    with watched.pipeline.engine.begin() as conn:
        api_budget.block(conn, 30, "RATE")
    assert notify_operator(watched.pipeline, no_runs) == {}
    assert operator.seen == []


def test_one_of_many_processes_alerts_once_an_hour(
    watched: Scenario, operator: ScriptedServer, open_another: Callable[..., Scenario]
) -> None:
    url = f"{operator.url}/{SECRET}"
    others = [open_another(SPOTIFY_PIPELINE_ALERT_URL=url).pipeline for _ in range(3)]
    become(watched, "needs_reauth", "anna")
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda pipeline: notify_operator(pipeline, no_runs), [watched.pipeline, *others] * 3
            )
        )
    assert alerts_sent(operator) == [("users_to_reconnect", 1)]
    # What comes within the hour waits, and is not forgotten.
    become(watched, "needs_reauth", "ben")
    pass_time(watched, minutes=59)
    notify_operator(watched.pipeline, no_runs)
    assert len(operator.seen) == 1
    pass_time(watched, minutes=1)
    notify_operator(watched.pipeline, no_runs)
    assert alerts_sent(operator) == [("users_to_reconnect", 1), ("users_to_reconnect", 2)]


def test_a_lasting_event_is_alerted_when_it_grows_and_once_a_day(
    watched: Scenario, operator: ScriptedServer
) -> None:
    become(watched, "needs_reauth", "anna")
    notify_operator(watched.pipeline, no_runs)
    pass_time(watched, hours=2)
    notify_operator(watched.pipeline, no_runs)
    assert len(operator.seen) == 1
    # One has reconnected, then another has to: the count is equal, but the event is new.
    become(watched, "connected", "anna")
    notify_operator(watched.pipeline, no_runs)
    become(watched, "needs_reauth", "ben")
    notify_operator(watched.pipeline, no_runs)
    assert len(operator.seen) == 2
    pass_time(watched, hours=24)
    notify_operator(watched.pipeline, no_runs)
    assert alerts_sent(operator) == [("users_to_reconnect", 1)] * 3


def test_an_event_is_alerted_once(watched: Scenario, operator: ScriptedServer) -> None:
    asked: list[datetime] = []

    def runs(since: datetime) -> int:
        asked.append(since)
        return 1 if len(asked) == 1 else 0

    open_gap(watched, "anna")
    assert notify_operator(watched.pipeline, runs) == {"run_failed": 1, "gaps_opened": 1}
    pass_time(watched, seconds=1)
    (row,) = [row for row in watched.rows(t.alerts) if row["event"] == "run_failed"]
    assert notify_operator(watched.pipeline, runs) == {}
    assert asked[1] == row["since"] > asked[0]


@pytest.mark.parametrize(
    "step",
    [
        answer(500),
        answer(404),
        answer(307, headers={"Location": "/again"}),
        answer(307, headers={"Location": "http://[::1"}),
        reset(),
        silence(),
        dripping(b"HTTP/1.1 204 No Content\r\nX: "),
    ],
    ids=["500", "404", "redirect", "redirect to nowhere", "reset", "silence", "drips"],
)
def test_an_alert_that_does_not_arrive_is_sent_later(
    watched: Scenario,
    operator: ScriptedServer,
    step: Step,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(maintenance, "TIMEOUT_SECONDS", 0.3)
    operator.script(step)
    open_gap(watched, "anna")
    assert notify_operator(watched.pipeline, no_runs) == {}
    assert len(operator.seen) == 1
    # The hook's address may hold a secret.
    assert SECRET not in caplog.text
    assert SECRET not in repr(watched.pipeline.settings)
    operator.script(answer(200))
    pass_time(watched, minutes=1)
    assert notify_operator(watched.pipeline, no_runs) == {"gaps_opened": 1}


def test_without_an_alert_url_no_alert_is_sent(scenario: Scenario) -> None:
    assert notify_operator(scenario.pipeline, no_runs) == {}
    assert scenario.rows(t.alerts) == []


def test_an_alert_goes_to_an_address_of_apprise_and_again_after_a_failure(
    operator: ScriptedServer, open_another: Callable[..., Scenario]
) -> None:
    scenario = open_another(SPOTIFY_PIPELINE_ALERT_URL=f"json://127.0.0.1:{operator.port}/{SECRET}")
    scenario.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES ('anna')")
    become(scenario, "needs_reauth", "anna")
    operator.script(answer(500))
    assert notify_operator(scenario.pipeline, no_runs) == {}
    operator.script(answer(200))
    pass_time(scenario, minutes=1)
    assert notify_operator(scenario.pipeline, no_runs) == {"users_to_reconnect": 1}
    body = json.loads(operator.seen[-1].body)
    message, command = WHAT_TO_DO["users_to_reconnect"]
    assert body["title"] == "users_to_reconnect: 1"
    assert body["message"] == f"{message}\n{command}"
    assert "anna" not in str(body)
