"""Asking for permission: the address of the page, its answer, and the code's way to a token."""

from urllib.parse import parse_qs, urlsplit

import pytest

from spotify_pipeline.spotify.errors import AppBlocked, Reconnect
from spotify_pipeline.spotify.oauth import Authorization, NotGranted, OAuthClient
from spotify_pipeline_tests.spotify.server import answer

HOME = "http://127.0.0.1:8898/callback"
GRANT = {"access_token": "new-access", "refresh_token": "new-refresh", "expires_in": 3600}


@pytest.fixture
def asked() -> Authorization:
    return Authorization("https://accounts.spotify.com", "client-1", HOME)


def state_of(authorization: Authorization) -> str:
    return parse_qs(urlsplit(authorization.address).query)["state"][0]


@pytest.mark.parametrize("where", ["https://accounts.spotify.com", "http://127.0.0.1:8765"])
def test_the_page_is_at_the_accounts_service_and_says_what_is_asked_for(where: str) -> None:
    parts = urlsplit(Authorization(where, "client-1", HOME).address)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{where}/authorize"
    query = parse_qs(parts.query)
    assert query.pop("code_challenge")
    assert query.pop("state")
    assert query == {
        "client_id": ["client-1"],
        "response_type": ["code"],
        "redirect_uri": [HOME],
        "scope": ["user-read-recently-played user-top-read"],
        "code_challenge_method": ["S256"],
        "show_dialog": ["true"],
    }


def test_plain_http_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="plain http"):
        Authorization("http://accounts.example", "client-1", HOME)


def test_only_a_callback_with_the_own_state_is_accepted(asked: Authorization) -> None:
    state = state_of(asked)
    assert asked.owns(f"code=x&state={state}")
    for query in (
        "",
        "code=x",
        f"code=x&state={state}&state={state}",
        f"state={state}%00",
        "state=",
    ):
        assert not asked.owns(query)


def test_a_callback_without_a_code_says_whether_the_user_refused(asked: Authorization) -> None:
    state = state_of(asked)
    assert asked.code_in(f"code=the-code&state={state}") == "the-code"
    for query, denied in (
        ("error=access_denied", True),
        ("error=server_error", False),
        ("", False),
    ):
        with pytest.raises(NotGranted) as caught:
            asked.code_in(f"{query}&state={state}")
        assert caught.value.denied is denied
        assert caught.value.__context__ is None


def test_the_repr_of_an_authorization_shows_no_secret(asked: Authorization) -> None:
    assert asked.code_verifier not in repr(asked)
    assert state_of(asked) not in repr(asked)


@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_a_code_is_redeemed_with_its_verifier(server, transport, secret: str | None) -> None:
    server.script(answer(200, GRANT))
    grant = OAuthClient(server.url, "client-1", secret, transport).redeem("code", HOME, "verifier")
    assert (grant.access_token, grant.refresh_token) == ("new-access", "new-refresh")
    (seen,) = server.seen
    assert ("authorization" in seen.headers) is (secret is not None)
    expected = {
        "grant_type": "authorization_code",
        "code": "code",
        "redirect_uri": HOME,
        "code_verifier": "verifier",
    }
    assert seen.form == expected | ({} if secret else {"client_id": "client-1"})


@pytest.mark.parametrize(
    ("error", "means"), [("invalid_grant", Reconnect), ("invalid_client", AppBlocked)]
)
def test_a_refused_code_has_a_sentence_for_its_meaning(server, transport, error, means) -> None:
    server.script(answer(400, {"error": error, "error_description": "Invalid redirect URI"}))
    with pytest.raises(means) as caught:
        OAuthClient(server.url, "client-1", None, transport).redeem("the-code", HOME, "verifier")
    assert "the-code" not in str(caught.value)
