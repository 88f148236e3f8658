"""One user's calls: refreshed once on 401, never twice."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from spotify_pipeline.spotify.client import SpotifyApi, call_with_token
from spotify_pipeline.spotify.errors import BadResponse, MissingScope, Reconnect
from spotify_pipeline_tests.spotify import bodies
from spotify_pipeline_tests.spotify.server import answer

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@dataclass
class Tokens:
    """Hands out token-0, and the next one after each refresh."""

    refreshes: int = 0
    revoked: bool = False
    handed: list[str] = field(default_factory=list)

    def access_token(self) -> str:
        self.handed.append(f"token-{self.refreshes}")
        return self.handed[-1]

    def refresh(self, refused: str) -> str:
        assert refused == self.handed[-1]
        if self.revoked:
            raise Reconnect("revoked")
        self.refreshes += 1
        return self.access_token()


@pytest.fixture
def tokens():
    return Tokens()


@pytest.fixture
def api(server, transport):
    return SpotifyApi(server.url, transport)


def test_a_good_token_is_not_refreshed(server, api, tokens):
    server.script(answer(200, bodies.NO_PLAYS))
    assert call_with_token(tokens, api.recently_played, NOW).plays == ()
    assert tokens.refreshes == 0


def test_every_call_survives_one_expired_token(server, api, tokens):
    for call, body in [
        (lambda: call_with_token(tokens, api.recently_played, NOW), bodies.ONE_PLAY),
        (lambda: call_with_token(tokens, api.top_artists, "short_term", 20), bodies.TOP_ARTISTS),
        (lambda: call_with_token(tokens, api.top_tracks, "long_term", 20), bodies.TOP_TRACKS),
        (lambda: call_with_token(tokens, api.profile), bodies.ME),
    ]:
        server.seen.clear()
        server.script(answer(401, bodies.EXPIRED), answer(200, body))
        before = tokens.refreshes
        call()
        assert tokens.refreshes == before + 1
        assert [seen.headers["authorization"] for seen in server.seen] == [
            f"Bearer token-{before}",
            f"Bearer token-{before + 1}",
        ]


def test_a_second_401_is_a_bad_response_and_disconnects_no_user(server, api, tokens):
    server.script(answer(401, bodies.EXPIRED))
    with pytest.raises(BadResponse, match="though it was new") as caught:
        call_with_token(tokens, api.profile)
    assert caught.value.__context__ is None
    assert (len(server.seen), tokens.refreshes) == (2, 1)


def test_a_revoked_connection_is_detected_at_the_refresh(server, api, tokens):
    tokens.revoked = True
    server.script(answer(401, bodies.EXPIRED))
    with pytest.raises(Reconnect):
        call_with_token(tokens, api.profile)
    assert len(server.seen) == 1


def test_a_refusal_other_than_401_triggers_no_refresh(server, api, tokens):
    server.script(answer(403, bodies.SCOPE))
    with pytest.raises(MissingScope):
        call_with_token(tokens, api.profile)
    assert tokens.refreshes == 0
