"""Refreshing tokens: how it is asked, what comes back, and what each refusal means."""

from base64 import b64decode

import pytest

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.spotify.errors import (
    AppBlocked,
    BadResponse,
    RateLimited,
    Reconnect,
    SpotifyUnavailable,
)
from spotify_pipeline.spotify.oauth import OAuthClient
from spotify_pipeline_tests.spotify import bodies
from spotify_pipeline_tests.spotify.server import answer, raw

GRANT = {
    "access_token": "new-access",
    "token_type": "Bearer",
    "scope": "user-read-recently-played user-top-read",
    "expires_in": 3600,
}


@pytest.fixture
def oauth(server, transport):
    return OAuthClient(server.url, "client-1", None, transport)


def test_a_confidential_client_authenticates_with_basic(server, transport):
    server.script(answer(200, GRANT))
    OAuthClient(server.url, "client-1", "s3cret", transport).refresh("old/refresh+token=&")
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/api/token")
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    scheme, _, credentials = seen.headers["authorization"].partition(" ")
    assert (scheme, b64decode(credentials)) == ("Basic", b"client-1:s3cret")
    assert seen.form == {"grant_type": "refresh_token", "refresh_token": "old/refresh+token=&"}


def test_a_pkce_client_names_itself_in_the_form(server, oauth):
    server.script(answer(200, GRANT))
    oauth.refresh("old")
    (seen,) = server.seen
    assert "authorization" not in seen.headers
    assert seen.form["client_id"] == "client-1"


def test_a_grant_without_a_new_refresh_token_says_so(server, oauth):
    server.script(answer(200, GRANT))
    grant = oauth.refresh("old")
    assert grant.access_token == "new-access"
    assert grant.expires_in_seconds == 3600
    assert grant.refresh_token is None
    assert grant.scopes == ("user-read-recently-played", "user-top-read")


@pytest.mark.parametrize("nothing", [None, "", 0, [], {"a": 1}])
def test_a_null_or_odd_refresh_token_is_no_refresh_token(server, oauth, nothing):
    server.script(answer(200, GRANT | {"refresh_token": nothing}))
    assert oauth.refresh("old").refresh_token is None


@pytest.mark.parametrize(
    "odd", [{"expires_in": None}, {"expires_in": "x"}, {"expires_in": -1}, {"expires_in": True}]
)
def test_a_new_refresh_token_is_kept_though_lesser_fields_are_odd(server, oauth, odd):
    server.script(answer(200, GRANT | {"refresh_token": "rotated", "scope": 7} | odd))
    grant = oauth.refresh("old")
    assert (grant.refresh_token, grant.expires_in_seconds, grant.scopes) == ("rotated", 3600, None)


@pytest.mark.parametrize("token", [None, "", 7, "a b", "a\r\nX: y", "tökén", ["a"]])
def test_an_answer_without_a_usable_access_token_is_a_bad_response(server, oauth, token):
    server.script(answer(200, GRANT | {"access_token": token}))
    with pytest.raises(BadResponse):
        oauth.refresh("old")


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (bodies.REFRESH_REVOKED, "revoked"),
        (bodies.REFRESH_EXPIRED, "expired"),
        (bodies.REFRESH_INVALID, "invalid"),
        ({"error": "invalid_grant"}, "invalid"),
        ({"error": "invalid_grant", "error_description": 7}, "invalid"),
    ],
)
def test_invalid_grant_means_reconnect_and_is_not_asked_again(server, oauth, body, cause):
    server.script(answer(400, body))
    with pytest.raises(Reconnect) as caught:
        oauth.refresh("old")
    assert (caught.value.code, caught.value.cause) == (ErrorCode.RECONNECT, cause)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client"])
def test_a_refused_client_blocks_the_app_and_changes_no_user(server, oauth, status, error):
    server.script(answer(status, {"error": error, "error_description": "Invalid client"}))
    with pytest.raises(AppBlocked) as caught:
        oauth.refresh("old")
    assert caught.value.code == ErrorCode.APP_BLOCKED
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (answer(400, {"error": "invalid_request"}), BadResponse),
        (answer(400, "<html>"), BadResponse),
        (answer(400, {"error": {"status": 400, "message": "invalid_grant"}}), BadResponse),
        (answer(403, {"error": "invalid_grant"}), BadResponse),
        (answer(404, {"error": "invalid_grant"}), BadResponse),
        (answer(429, bodies.RATE_LIMIT_TEXT, {"Retry-After": "3"}), RateLimited),
        (answer(500, {"error": "server_error"}), SpotifyUnavailable),
        (answer(503, {"error": "invalid_grant"}), SpotifyUnavailable),
        (raw(), SpotifyUnavailable),
    ],
)
def test_only_a_plain_invalid_grant_ends_a_connection(server, oauth, step, error):
    server.script(step)
    with pytest.raises(error):
        oauth.refresh("old")


def test_a_refresh_is_tried_again_after_a_reset(server, oauth):
    server.script(raw(), answer(200, GRANT))
    assert oauth.refresh("old").access_token == "new-access"


def test_plain_http_to_a_host_that_is_not_loopback_is_refused_at_construction(transport):
    with pytest.raises(ValueError, match=r"Refusing plain http to accounts\.spotify\.com"):
        OAuthClient("http://accounts.spotify.com", "client", "s3cret", transport)
