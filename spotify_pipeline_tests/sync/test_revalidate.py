"""The cache hook: signed, called once for all, and never a reason for a sync to fail."""

import hashlib
import hmac
import json
import socket
from collections.abc import Callable, Iterator

import pytest

from spotify_pipeline.domain.steps import PROFILE_REVALIDATION
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync import revalidate
from spotify_pipeline.sync.outcome import UserOutcome
from spotify_pipeline_tests.spotify.server import ScriptedServer, Step, answer, reset, silence
from spotify_pipeline_tests.sync.stage import NOON, Stage

SECRET = "shared with the app"
EVERYBODY = ("anna", "ben ✓", 'o"brien')


@pytest.fixture
def app() -> Iterator[ScriptedServer]:
    app = ScriptedServer([answer(204)])
    yield app
    app.close()


@pytest.fixture
def hooked(open_another: Callable[..., Stage], app: ScriptedServer) -> Stage:
    """A stage with three people and an app that wants to be told."""
    stage = open_another(
        SPOTIFY_PIPELINE_REVALIDATE_URL=f"{app.url}/hook?of=spotify",
        SPOTIFY_PIPELINE_REVALIDATE_SECRET=SECRET,
    )
    for user_id in EVERYBODY:
        stage.connect(user_id, person="light")
    return stage


def test_the_app_is_told_once_and_can_verify_who_tells_it(
    hooked: Stage, app: ScriptedServer
) -> None:
    outcomes = hooked.sync_well(*EVERYBODY)
    (call,) = app.seen
    assert (call.method, call.target) == ("POST", "/hook?of=spotify")
    assert json.loads(call.body) == {"user_ids": list(EVERYBODY)}
    timestamp = call.headers["x-spotify-pipeline-timestamp"]
    assert int(timestamp) == NOON.timestamp()
    signed = hmac.new(SECRET.encode(), timestamp.encode() + b"." + call.body, hashlib.sha256)
    assert call.headers["x-spotify-pipeline-signature"] == f"sha256={signed.hexdigest()}"
    assert SECRET not in str(call)
    assert {outcome.done[PROFILE_REVALIDATION].total for outcome in outcomes} == {1}


def test_the_app_hears_only_of_those_whose_numbers_are_new(
    hooked: Stage, app: ScriptedServer
) -> None:
    hooked.simulator.add_fault(ServerError(), endpoint="recently_played", user_id="anna")
    anna, *_ = hooked.sync(*EVERYBODY)
    (call,) = app.seen
    assert json.loads(call.body) == {"user_ids": list(EVERYBODY[1:])}
    assert PROFILE_REVALIDATION not in anna.done


@pytest.mark.parametrize(
    "step",
    [answer(500), answer(429), reset(), silence()],
    ids=["500", "429", "reset", "silence"],
)
def test_an_app_that_fails_is_told_three_times_and_fails_no_sync(
    hooked: Stage, app: ScriptedServer, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revalidate, "TIMEOUT_SECONDS", 0.3)
    app.script(step)
    outcomes = hooked.sync_well(*EVERYBODY)
    assert len(app.seen) == 3
    assert len({call.body for call in app.seen}) == 1
    assert not_told(outcomes)
    assert {row["last_error_code"] for row in hooked.rows(t.sync_state)} == {None}


@pytest.mark.parametrize(
    "step", [answer(404), answer(307, headers={"Location": "/again"})], ids=["404", "redirect"]
)
def test_an_app_that_refuses_is_not_asked_again(
    hooked: Stage, app: ScriptedServer, step: Step
) -> None:
    """Nor is a redirect followed, or a success."""
    app.script(step)
    assert not_told(hooked.sync_well(*EVERYBODY))
    assert len(app.seen) == 1


def test_an_app_that_stumbled_is_told_all_the_same(hooked: Stage, app: ScriptedServer) -> None:
    app.script(reset(), answer(503), answer(204))
    outcomes = hooked.sync_well(*EVERYBODY)
    assert len(app.seen) == 3
    assert {o.done[PROFILE_REVALIDATION].total for o in outcomes} == {1}
    assert {o.done[PROFILE_REVALIDATION].remark for o in outcomes} == {None}


def not_told(outcomes: list[UserOutcome]) -> bool:
    """Whether everybody's step says that the app does not know."""
    rows = [outcome.done[PROFILE_REVALIDATION] for outcome in outcomes]
    return all(row.total == 0 and "cache hook" in str(row.remark) for row in rows)


def test_an_app_that_is_down_fails_no_sync(open_another: Callable[..., Stage]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    stage = open_another(
        SPOTIFY_PIPELINE_REVALIDATE_URL=f"http://127.0.0.1:{port}/hook",
        SPOTIFY_PIPELINE_REVALIDATE_SECRET=SECRET,
    )
    stage.connect("anna", person="light")
    stage.sync_well("anna")


def test_without_an_address_nobody_is_called(stage: Stage) -> None:
    stage.connect("anna", person="light")
    (outcome,) = stage.sync_well("anna")
    assert outcome.done[PROFILE_REVALIDATION].total == 0
