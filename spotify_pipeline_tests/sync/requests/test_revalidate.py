"""The cache hook: signed, called once for all users, and its failure never fails a sync."""

import hashlib
import hmac
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    PROFILE_REVALIDATION,
    RECENTLY_PLAYED,
    STEPS,
    TOP_ARTISTS,
    StepRows,
    UserOutcome,
)
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync import deliver
from spotify_pipeline.sync.requests import enlist_requests
from spotify_pipeline.sync.runs import ENLISTED, choose, sync_chunk
from spotify_pipeline.sync.users import rebuild_users
from spotify_pipeline_tests.spotify.server import (
    ScriptedServer,
    Step,
    answer,
    dripping,
    raw,
    reset,
    silence,
)
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

HOUR = timedelta(hours=1)
# Without the personality, which also changes with time.
DAYS = (RECENTLY_PLAYED, DAILY_LISTENING, PROFILE_REVALIDATION)
SECRET = "shared with the app"
USERS = ("anna", "ben ✓", 'o"brien')


@pytest.fixture
def app() -> Iterator[ScriptedServer]:
    app = ScriptedServer([answer(204)])
    yield app
    app.close()


@pytest.fixture
def hooked(open_another: Callable[..., Scenario], app: ScriptedServer) -> Scenario:
    """A scenario with three users and an app with a cache hook."""
    scenario = open_another(
        SPOTIFY_PIPELINE_REVALIDATE_URL=f"{app.url}/hook?of=spotify",
        SPOTIFY_PIPELINE_REVALIDATE_SECRET=SECRET,
    )
    for user_id in USERS:
        scenario.connect(user_id)
    return scenario


def test_the_app_is_notified_once_and_can_verify_the_signature(
    hooked: Scenario, app: ScriptedServer
) -> None:
    outcomes = hooked.sync_well(*USERS)
    (call,) = app.seen
    assert (call.method, call.target) == ("POST", "/hook?of=spotify")
    assert json.loads(call.body) == {"user_ids": list(USERS)}
    timestamp = call.headers["x-spotify-pipeline-timestamp"]
    assert int(timestamp) == NOON.timestamp()
    signed = hmac.new(SECRET.encode(), timestamp.encode() + b"." + call.body, hashlib.sha256)
    assert call.headers["x-spotify-pipeline-signature"] == f"sha256={signed.hexdigest()}"
    assert SECRET not in str(call)
    assert {outcome.done[PROFILE_REVALIDATION].total for outcome in outcomes} == {1}


def test_the_app_is_notified_only_of_users_for_whom_something_was_fetched(
    hooked: Scenario, app: ScriptedServer
) -> None:
    anna, ben, brien = USERS
    hooked.simulator.revoke(anna)
    hooked.simulator.add_fault(ServerError(), endpoint="recently_played", user_id=ben)
    outcomes = {outcome.user_id: outcome for outcome in hooked.sync(*USERS)}
    # Ben's top lists are new.
    assert notified(app) == [[ben, brien]]
    assert PROFILE_REVALIDATION not in outcomes[anna].done


def test_a_scheduled_sync_notifies_only_of_users_with_changes(
    hooked: Scenario, app: ScriptedServer
) -> None:
    anna, ben, _ = USERS
    for user_id in USERS:
        hooked.serve_plays(user_id, [(NOON - HOUR, "one")])
    hooked.sync_well(*USERS)
    app.seen.clear()
    hooked.at(NOON + HOUR)
    outcomes = hooked.sync(*USERS, scheduled=True)
    # Nothing to notify is neither a failure nor a call.
    assert {(outcome.result, PROFILE_REVALIDATION in outcome.done) for outcome in outcomes} == {
        ("synced", False)
    }
    assert notified(app) == []
    hooked.serve_plays(ben, [(NOON, "two"), (NOON - HOUR, "one")])
    hooked.at(NOON + 2 * HOUR)
    by_user = {outcome.user_id: outcome for outcome in hooked.sync(*USERS, scheduled=True)}
    assert notified(app) == [[ben]]
    assert by_user[ben].changes[PROFILE_REVALIDATION] == StepRows(total=1, new=1)
    assert by_user[anna].changes == {}
    # A requesting user is shown that it was done.
    hooked.sync_well(anna)
    assert notified(app) == [[ben], [anna]]
    # The day became complete by time alone.
    hooked.at(NOON + 18 * HOUR)
    by_user = {
        outcome.user_id: outcome for outcome in hooked.sync(anna, scheduled=True, steps=DAYS)
    }
    assert by_user[anna].changes[DAILY_LISTENING] == StepRows(total=1, changed=1)
    assert notified(app) == [[ben], [anna], [anna]]
    # A rebuild notifies of its changes, too.
    rebuild_users(hooked.pipeline, USERS)
    app.seen.clear()
    moved = "UPDATE spotify_pipeline.users SET timezone = 'Pacific/Auckland' WHERE user_id = :u"
    hooked.execute(moved, u=ben)
    rebuild_users(hooked.pipeline, USERS)
    assert notified(app) == [[ben]]


class Killed(BaseException):
    """Simulates the end of the process."""


@pytest.mark.parametrize("asked", [False, True], ids=["scheduled", "requests"])
def test_the_second_try_delivers_what_a_killed_process_had_stored(
    hooked: Scenario, app: ScriptedServer, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """The requests are answered after the notification, not before."""
    heard: list[tuple[str, set[str], str]] = []
    key = "batch-1" if asked else None
    if asked:
        hooked.execute(
            "INSERT INTO spotify_pipeline.sync_requests (user_id)"
            " SELECT user_id FROM spotify_pipeline.users"
        )
        hooked.execute("UPDATE spotify_pipeline.sync_requests SET dispatch_key = 'batch-1'")
        enlist_requests(hooked.pipeline, "batch-1", "run")
    choose(hooked.pipeline, "run", ENLISTED if asked else "eligible", 100)

    def emit(outcomes: Sequence[UserOutcome]) -> None:
        status = {row["user_id"]: row["status"] for row in hooked.rows(t.sync_requests)}
        heard.extend((o.user_id, set(o.changes), status.get(o.user_id, "")) for o in outcomes)

    def attempt() -> list[UserOutcome]:
        options: Any = {"scheduled": not asked, "dispatch_key": key, "emit": emit}
        with sync_chunk(hooked.pipeline, "run", 0, **options) as outcomes:
            return outcomes

    with monkeypatch.context() as patch:
        patch.setattr(deliver, "revalidate_profiles", raising(Killed))
        with pytest.raises(Killed):
            attempt()
    hooked.simulator.forget_calls()
    outcomes = attempt()
    assert hooked.calls() == []
    assert {outcome.result for outcome in outcomes} == {"synced"}
    assert sorted(heard) == [
        (user_id, set(STEPS), "running" if asked else "") for user_id in sorted(USERS)
    ]
    assert sorted(*notified(app)) == sorted(USERS)
    assert {row["status"] for row in hooked.rows(t.sync_requests)} == (
        {"succeeded"} if asked else set()
    )
    for outcome in outcomes:
        for step, table in {RECENTLY_PLAYED: t.plays, DAILY_LISTENING: t.daily_listening}.items():
            assert outcome.done[step].total == len(hooked.rows(table, outcome.user_id))
        tops = hooked.rows(t.user_top_artists, outcome.user_id)
        stored = Counter(f"top_artists/{row['time_range']}" for row in tops)
        assert stored == {step: outcome.done[step].total for step in TOP_ARTISTS}
        assert stored.total() > 0


def raising(error: type[BaseException]) -> Callable[..., None]:
    """A function that raises, as if the process ended in it."""

    def end(*_: object) -> None:
        raise error

    return end


def notified(app: ScriptedServer) -> list[list[str]]:
    """The users in each call of the hook."""
    return [json.loads(call.body)["user_ids"] for call in app.seen]


@pytest.mark.parametrize(
    "step",
    [answer(500), answer(429), reset(), silence()],
    ids=["500", "429", "reset", "silence"],
)
def test_a_failing_webhook_is_tried_three_times_and_fails_no_sync(
    hooked: Scenario, app: ScriptedServer, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "TIMEOUT_SECONDS", 0.3)
    app.script(step)
    outcomes = hooked.sync_well(*USERS)
    assert len(app.seen) == 3
    assert len({call.body for call in app.seen}) == 1
    assert unnotified(outcomes)
    assert {row["last_error_code"] for row in hooked.rows(t.sync_state)} == {None}


@pytest.mark.parametrize(
    "step", [answer(404), answer(307, headers={"Location": "/again"})], ids=["404", "redirect"]
)
def test_a_webhook_that_refuses_is_not_tried_again(
    hooked: Scenario, app: ScriptedServer, step: Step
) -> None:
    """A redirect is neither followed nor a success."""
    app.script(step)
    assert unnotified(hooked.sync_well(*USERS))
    assert len(app.seen) == 1


@pytest.mark.parametrize(
    "step",
    [
        answer(307, headers={"Location": "http://[::1"}),
        answer(302, headers={"Location": "http://\x80/"}),
        raw(b"HTTP/1.1 ??? What\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nno header\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n"),
        raw(b"\x00" * 1000),
    ],
    ids=["location", "bytes", "status", "length", "headers", "long", "zeros"],
)
def test_no_answer_of_the_hook_fails_a_sync(
    hooked: Scenario, app: ScriptedServer, step: Step
) -> None:
    app.script(step)
    assert unnotified(hooked.sync_well(*USERS))


@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 204 No Content\r\nX: "],
    ids=["status line", "header"],
)
def test_a_slow_webhook_response_is_cut_off_at_its_timeout(
    hooked: Scenario,
    app: ScriptedServer,
    beginning: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliver, "TIMEOUT_SECONDS", 0.3)
    app.script(dripping(beginning))
    begun = time.monotonic()
    assert unnotified(hooked.sync_well(*USERS))
    assert len(app.seen) == 3
    # Three tries of 0.3 s, the back-off, and the sync itself; the response never ended.
    assert time.monotonic() - begun < 10


def test_a_webhook_that_failed_twice_is_notified_at_the_third_try(
    hooked: Scenario, app: ScriptedServer
) -> None:
    app.script(reset(), answer(503), answer(204))
    outcomes = hooked.sync_well(*USERS)
    assert len(app.seen) == 3
    assert {o.done[PROFILE_REVALIDATION].total for o in outcomes} == {1}
    assert {o.done[PROFILE_REVALIDATION].remark for o in outcomes} == {None}


def unnotified(outcomes: list[UserOutcome]) -> bool:
    """Whether every user's step says that the app was not notified."""
    rows = [outcome.done[PROFILE_REVALIDATION] for outcome in outcomes]
    return all(row.total == 0 and "cache hook" in str(row.remark) for row in rows)


def test_an_app_that_is_down_fails_no_sync(open_another: Callable[..., Scenario]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    scenario = open_another(
        SPOTIFY_PIPELINE_REVALIDATE_URL=f"http://127.0.0.1:{port}/hook",
        SPOTIFY_PIPELINE_REVALIDATE_SECRET=SECRET,
    )
    scenario.connect("anna", kind="light")
    scenario.sync_well("anna")


def test_without_an_address_no_webhook_is_called(scenario: Scenario) -> None:
    scenario.connect("anna", kind="light")
    (outcome,) = scenario.sync_well("anna")
    assert outcome.done[PROFILE_REVALIDATION].total == 0
