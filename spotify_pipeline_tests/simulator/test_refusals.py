"""The simulator rejects, delays and limits calls as Spotify does."""

import datetime as dt
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from spotify_pipeline.simulator.control import Simulator, SimulatorError
from spotify_pipeline.simulator.faults import refusals
from spotify_pipeline.simulator.faults.base import Replaces
from spotify_pipeline_tests.simulator.conftest import ListenerClient

AddListener = Callable[..., ListenerClient]
OWNER_NOT_PREMIUM = (
    "Your application is blocked from accessing the Web API since you do not have a Spotify "
    "Premium subscription. Upgrade to Spotify Premium to access the Web API and unlock additional "
    "features for your app."
)


@pytest.mark.parametrize(
    ("fault", "status", "body", "retry_after"),
    [
        (
            refusals.RateLimited(7),
            429,
            {"error": {"status": 429, "message": "API rate limit exceeded"}},
            "7",
        ),
        (refusals.RateLimited(None, plain=True), 429, "Too many requests", None),
        (
            refusals.QuotaExceeded(),
            429,
            {"error": {"status": 429, "message": "Too many requests", "reason": "QUOTA_EXCEEDED"}},
            "48925",
        ),
        (
            refusals.AccessTokenExpired(),
            401,
            {"error": {"status": 401, "message": "The access token expired"}},
            None,
        ),
        (
            refusals.Forbidden("scope"),
            403,
            {"error": {"status": 403, "message": "Insufficient client scope"}},
            None,
        ),
        (
            refusals.Forbidden("not_allowlisted"),
            403,
            "User not registered in the Developer Dashboard",
            None,
        ),
        (refusals.Forbidden("not_premium"), 403, OWNER_NOT_PREMIUM, None),
        (
            refusals.Forbidden("other"),
            403,
            {"error": {"status": 403, "message": "Forbidden"}},
            None,
        ),
        (
            refusals.ServerError(),
            502,
            {"error": {"status": 502, "message": "Bad gateway."}},
            None,
        ),
        (refusals.ServerError(503, "empty", retry_after=3), 503, "", "3"),
        (refusals.Body("null"), 200, None, None),
        (refusals.Body(base64="IkhpIg=="), 200, "Hi", None),
    ],
)
def test_a_refusal_has_spotifys_status_body_and_header(
    simulator: Simulator,
    add_listener: AddListener,
    fault: Replaces,
    status: int,
    body: Any,
    retry_after: str | None,
) -> None:
    listener = add_listener()
    listener.authorization()
    simulator.add_fault(fault, user_id=listener.user_id)
    answer = listener.recently()
    is_json = answer.headers["content-type"].startswith("application/json")
    assert answer.status_code == status
    assert (answer.json() if is_json else answer.text) == body
    assert answer.headers.get("retry-after") == retry_after


def test_a_gateway_error_can_be_a_page_of_html(
    simulator: Simulator, add_listener: AddListener
) -> None:
    simulator.add_fault(refusals.ServerError(504, "html"))
    answer = add_listener().refresh()
    assert answer.status_code == 504
    assert answer.headers["content-type"].startswith("text/html")
    assert "<html>" in answer.text


def test_retry_after_can_be_an_http_date(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener()
    simulator.add_fault(refusals.RateLimited(60, as_date=True))
    date = parsedate_to_datetime(listener.recently().headers["retry-after"])
    ahead = (date - dt.datetime.now(dt.UTC)).total_seconds()
    assert 30 < ahead <= 60


def test_a_false_alarm_hits_every_valid_refresh_token_until_it_is_cleared(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listeners = [add_listener() for _ in range(4)]
    simulator.add_fault(refusals.InvalidGrant())
    for listener in listeners:
        answer = listener.refresh()
        assert answer.status_code == 400
        assert answer.json() == {
            "error": "invalid_grant",
            "error_description": "Refresh token revoked",
        }
    simulator.clear_faults()
    assert [listener.refresh().status_code for listener in listeners] == [200] * 4


def test_an_app_with_a_wrong_secret_gets_invalid_client(
    simulator: Simulator, add_listener: AddListener
) -> None:
    simulator.add_fault(refusals.InvalidClient())
    assert add_listener().refresh().json()["error"] == "invalid_client"


def test_a_revoked_token_stays_revoked_until_the_listener_reconnects(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener, other = add_listener(), add_listener()
    assert listener.get("/v1/me").status_code == 200
    simulator.revoke(listener.user_id)
    assert listener.get("/v1/me").status_code == 401
    for _ in range(2):
        assert listener.refresh().json()["error_description"] == "Refresh token revoked"
    assert other.refresh().status_code == 200
    again = ListenerClient(simulator, simulator.reconnect(listener.user_id))
    assert again.refresh_token != listener.refresh_token
    assert again.get("/v1/me").status_code == 200
    assert listener.refresh().status_code == 400


def test_latency_delays_a_good_answer(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener()
    listener.get("/v1/me")
    simulator.add_fault(refusals.Latency(0.3), times=1)
    started = time.monotonic()
    assert listener.get("/v1/me").status_code == 200
    assert time.monotonic() - started >= 0.3


def test_a_delayed_response_does_not_delay_other_listeners(
    simulator: Simulator, add_listener: AddListener
) -> None:
    waiting, other = add_listener(), add_listener()
    waiting.get("/v1/me")
    other.get("/v1/me")
    simulator.add_fault(refusals.Latency(30), user_id=waiting.user_id)
    with pytest.raises(OSError, match="timed out"):
        waiting.get("/v1/me", timeout=0.2)
    assert other.get("/v1/me").status_code == 200


def test_a_fault_hits_only_its_user_its_endpoint_and_its_number_of_calls(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener, other = add_listener(), add_listener()
    number = simulator.add_fault(
        refusals.ServerError(500), endpoint="top_artists", user_id=listener.user_id, times=2
    )
    assert other.get("/v1/me/top/artists").status_code == 200
    assert listener.get("/v1/me/top/tracks").status_code == 200
    got = [listener.get("/v1/me/top/artists").status_code for _ in range(3)]
    assert got == [500, 500, 200]
    (rule,) = simulator.faults()
    assert (rule["number"], rule["kind"], rule["hits"]) == (number, "server_error", 2)


def test_a_fault_can_hit_every_third_call(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener()
    simulator.add_fault(refusals.ServerError(500), endpoint="me", every=3)
    got = [listener.get("/v1/me").status_code for _ in range(7)]
    assert got == [200, 200, 500, 200, 200, 500, 200]


def test_one_of_several_faults_can_be_cleared(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    first = simulator.add_fault(refusals.ServerError(500))
    simulator.add_fault(refusals.ServerError(503))
    assert listener.refresh().status_code == 500
    simulator.clear_faults(first)
    assert listener.refresh().status_code == 503


def test_the_log_of_calls_names_the_faults(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener()
    simulator.add_fault(refusals.Latency(0.01), endpoint="token")
    simulator.add_fault(refusals.ServerError(500), endpoint="token")
    listener.refresh()
    (call,) = simulator.calls()
    assert (call.status, call.faults) == (500, ("latency", "server_error"))
    assert call.user_id == listener.user_id


def test_a_window_of_30_seconds_allows_so_many_calls_of_all_users_together(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listeners = [add_listener(), add_listener()]
    simulator.set_limits(calls_per_30s=4)
    got = [listeners[number % 2].get("/v1/me") for number in range(6)]
    assert [answer.status_code for answer in got] == [200] * 4 + [429] * 2
    assert 1 <= int(got[-1].headers["retry-after"]) <= 30
    assert got[-1].json()["error"]["message"] == "API rate limit exceeded"
    assert listeners[0].refresh().status_code == 200  # not counted for accounts.spotify.com


def test_an_exceeded_day_quota_asks_to_wait_for_hours(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    simulator.set_limits(calls_per_day=2)
    got = [listener.get("/v1/me") for _ in range(3)]
    assert [answer.status_code for answer in got] == [200, 200, 429]
    assert got[-1].json()["error"]["reason"] == "QUOTA_EXCEEDED"
    assert 86_000 < int(got[-1].headers["retry-after"]) <= 86_400


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"kind": "earthquake"}, "earthquake is none of latency"),
        ({"kind": "invalid_grant", "endpoint": "me"}, "endpoint me of fault invalid_grant"),
        ({"kind": "latency", "options": {"minutes": 1}}, "minutes"),
        ({"kind": "latency", "every": 0}, "every must be"),
        ({"kind": "latency", "times": "often"}, "times = 'often'"),
    ],
)
def test_a_wrong_fault_is_refused_with_a_sentence(
    simulator: Simulator, body: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SimulatorError, match=sentence):
        simulator.add_fault_of_kind(**body)


@pytest.mark.parametrize("status", [200, 401, 403, 500])
def test_an_echo_returns_the_header_and_the_form_that_were_sent(
    add_listener: AddListener, simulator: Simulator, status: int
) -> None:
    listener = add_listener()
    header = listener.authorization()
    simulator.add_fault(refusals.Echo(status), user_id=listener.user_id)
    answers = {header: listener.recently(), listener.refresh_token: listener.refresh()}
    for sent, answer in answers.items():
        assert (answer.status_code, sent in answer.text) == (status, True)
    assert {header.removeprefix("Bearer "), listener.refresh_token} <= set(simulator.tokens())
