"""The four calls: what is asked, what comes back, and what a refusal means."""

from datetime import UTC, datetime
from importlib import metadata

import pytest

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.errors import (
    AccessTokenExpired,
    AppBlocked,
    BadResponse,
    MissingScope,
    NotAllowlisted,
)
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline_tests.spotify import bodies
from spotify_pipeline_tests.spotify.conftest import SMALL
from spotify_pipeline_tests.spotify.server import answer

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def api(server, transport):
    return SpotifyApi(server.url, transport)


def test_recently_played_takes_the_whole_window_and_no_cursor(server, api):
    server.script(answer(200, bodies.ONE_PLAY))
    page = api.recently_played("token", NOW)
    assert [play.track_id for play in page.plays] == [bodies.TRACK["id"]]
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("GET", "/v1/me/player/recently-played")
    assert seen.query == {"limit": "50"}
    assert seen.headers["authorization"] == "Bearer token"
    assert seen.headers["user-agent"] == "spotify_pipeline/" + metadata.version("spotify_pipeline")


def test_an_empty_page_is_returned(server, api):
    server.script(answer(200, bodies.NO_PLAYS))
    page = api.recently_played("token", NOW)
    assert (page.plays, page.has_more) == ((), False)


@pytest.mark.parametrize("time_range", ["short_term", "medium_term", "long_term"])
def test_top_lists_name_their_time_range_and_limit(server, api, time_range):
    server.script(answer(200, bodies.TOP_ARTISTS), answer(200, bodies.TOP_TRACKS))
    artists = api.top_artists("token", time_range, 20)
    tracks = api.top_tracks("token", time_range, 5)
    assert (artists.time_range, [a.name for a in artists.artists]) == (time_range, ["An Artist"])
    assert (tracks.time_range, [t.name for t in tracks.entries]) == (time_range, ["A Song"])
    assert [seen.path for seen in server.seen] == ["/v1/me/top/artists", "/v1/me/top/tracks"]
    assert [seen.query for seen in server.seen] == [
        {"time_range": time_range, "limit": "20"},
        {"time_range": time_range, "limit": "5"},
    ]


def test_profile_says_whose_token_it_is(server, api):
    server.script(answer(200, bodies.ME))
    assert api.profile("token").account_id == "acc1"
    assert server.seen[0].path == "/v1/me"


@pytest.mark.parametrize("body", [{}, {"items": "x"}, {"items": None}, bodies.EXPIRED])
def test_a_200_of_another_form_is_a_bad_response_that_names_the_endpoint(server, api, body):
    server.script(answer(200, body))
    with pytest.raises(BadResponse, match=r"^top_artists: ") as caught:
        api.top_artists("token", "short_term", 20)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (401, bodies.EXPIRED, AccessTokenExpired, ErrorCode.BAD_RESPONSE),
        (401, "", AccessTokenExpired, ErrorCode.BAD_RESPONSE),
        (401, bodies.PERMISSIONS_MISSING, MissingScope, ErrorCode.MISSING_SCOPE),
        (403, bodies.SCOPE, MissingScope, ErrorCode.MISSING_SCOPE),
        (403, bodies.NOT_ALLOWLISTED, NotAllowlisted, ErrorCode.NOT_ALLOWLISTED),
        (403, bodies.OWNER_NOT_PREMIUM, AppBlocked, ErrorCode.APP_BLOCKED),
        (
            403,
            {"error": {"status": 403, "message": bodies.OWNER_NOT_PREMIUM}},
            AppBlocked,
            ErrorCode.APP_BLOCKED,
        ),
        (403, bodies.FORBIDDEN, NotAllowlisted, ErrorCode.NOT_ALLOWLISTED),
        (403, "<html>Forbidden</html>", NotAllowlisted, ErrorCode.NOT_ALLOWLISTED),
        (403, b"\xff\xfe", NotAllowlisted, ErrorCode.NOT_ALLOWLISTED),
        (400, {"error": {"status": 400, "message": "x"}}, BadResponse, ErrorCode.BAD_RESPONSE),
        (404, "", BadResponse, ErrorCode.BAD_RESPONSE),
        (410, "", BadResponse, ErrorCode.BAD_RESPONSE),
    ],
)
def test_a_refusal_means_and_is_asked_only_once(server, api, status, body, error, code):
    server.script(answer(status, body))
    with pytest.raises(error, match=r"^recently_played: ") as caught:
        api.recently_played("token", NOW)
    assert caught.value.code == code
    assert len(server.seen) == 1


def test_the_rate_limiter_gets_the_priority_of_each_call(server):
    class Doorman:
        def __init__(self):
            self.heard = []

        def acquire(self, priority):
            self.heard.append(priority)

        def blocked(self, seconds, reason):
            return False

        def answered(self, caller, *, accepted):
            self.heard.append(accepted)

        def unanswered(self, caller):
            return True

    rate_limiter = Doorman()
    transport = Transport(rate_limiter=rate_limiter, limits=SMALL)
    server.script(answer(200, bodies.ME))
    api = SpotifyApi(server.url, transport)
    api.profile("token")
    api.profile("token", priority="tops")
    assert rate_limiter.heard == ["request", True, "tops", True]


def test_plain_http_to_a_host_that_is_not_loopback_is_refused_at_construction(transport):
    with pytest.raises(ValueError, match=r"Refusing plain http to api\.spotify\.com"):
        SpotifyApi("http://api.spotify.com", transport)
