"""OAuth works as at accounts.spotify.com."""

import base64
import hashlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline_tests.simulator.conftest import ListenerClient

AddListener = Callable[..., ListenerClient]
CALLBACK = "http://127.0.0.1:8123/callback"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:-1]


def authorize(simulator: Simulator, **query: str) -> requests.Response:
    asked = {
        "client_id": simulator.client_id,
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "state": "abc",
        "scope": "user-read-recently-played user-top-read",
        "code_challenge_method": "S256",
        "code_challenge": CHALLENGE,
    }
    return requests.get(
        f"{simulator.url}/authorize", params=asked | query, allow_redirects=False, timeout=10
    )


def redirected(answer: requests.Response) -> dict[str, str]:
    assert answer.status_code == 302
    address = urlsplit(answer.headers["location"])
    assert f"{address.scheme}://{address.netloc}{address.path}" == CALLBACK
    return {name: values[0] for name, values in parse_qs(address.query).items()}


def redeem(simulator: Simulator, code: str, **form: str) -> requests.Response:
    asked = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "client_id": simulator.client_id,
        "code_verifier": VERIFIER,
    }
    return requests.post(f"{simulator.url}/api/token", data=asked | form, timeout=10)


def test_a_code_brings_both_tokens_once(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener()
    back = redirected(authorize(simulator, user_id=listener.user_id))
    assert back["state"] == "abc"
    token = redeem(simulator, back["code"]).json()
    assert token["refresh_token"] == listener.refresh_token
    assert token["scope"] == "user-read-recently-played user-top-read"
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    me = requests.get(f"{simulator.url}/v1/me", headers=headers, timeout=10).json()
    assert me["id"] == listener.user_id
    again = redeem(simulator, back["code"])
    assert again.status_code == 400
    assert again.json() == {
        "error": "invalid_grant",
        "error_description": "Invalid authorization code",
    }


def test_only_the_scopes_that_were_asked_for_are_granted(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    back = redirected(authorize(simulator, user_id=listener.user_id, scope="user-top-read other"))
    assert redeem(simulator, back["code"]).json()["scope"] == "user-top-read"
    assert listener.recently().status_code == 403


def test_a_revoked_listener_gets_a_new_refresh_token(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    simulator.revoke(listener.user_id)
    back = redirected(authorize(simulator, user_id=listener.user_id))
    token = redeem(simulator, back["code"]).json()
    assert token["refresh_token"] != listener.refresh_token
    assert listener.refresh(refresh_token=token["refresh_token"]).status_code == 200


@pytest.mark.parametrize(
    ("form", "description"),
    [
        ({"code_verifier": "wrong"}, "code_verifier was incorrect"),
        ({"redirect_uri": "http://127.0.0.1:1/"}, "Invalid redirect URI"),
    ],
)
def test_a_stolen_code_is_refused(
    simulator: Simulator, add_listener: AddListener, form: dict[str, Any], description: str
) -> None:
    back = redirected(authorize(simulator, user_id=add_listener().user_id))
    answer = redeem(simulator, back["code"], **form)
    assert answer.status_code == 400
    assert answer.json() == {"error": "invalid_grant", "error_description": description}


@pytest.mark.parametrize(
    "query",
    [
        {"client_id": "unknown"},
        {"redirect_uri": "http://localhost:8123/callback"},
        {"redirect_uri": "http://example.org/callback"},
        {"response_type": "token"},
        {"code_challenge_method": "plain"},
    ],
)
def test_an_unsafe_request_is_refused_without_a_redirect(
    simulator: Simulator, query: dict[str, str]
) -> None:
    answer = authorize(simulator, **query)
    assert answer.status_code == 400
    assert "location" not in answer.headers


def test_a_listener_can_refuse(simulator: Simulator) -> None:
    assert redirected(authorize(simulator, deny="1")) == {"error": "access_denied", "state": "abc"}


def test_a_browser_without_a_user_id_gets_a_page_of_listeners(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener(display_name="<b>Mira</b>")
    page = authorize(simulator)
    assert page.headers["content-type"].startswith("text/html")
    assert "&lt;b&gt;Mira&lt;/b&gt;" in page.text
    assert f"user_id={listener.user_id}" in page.text
