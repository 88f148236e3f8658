"""Access tokens are reused, refreshed once, and what a refresh brings is never lost or mixed up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.simulator.faults.edits import NullRefreshToken, RotateRefreshToken
from spotify_pipeline.simulator.faults.refusals import AccessTokenExpired
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.queries import load_users
from spotify_pipeline.sync.tokens import UserTokens
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario


@pytest.fixture
def anna(scenario: Scenario) -> Scenario:
    scenario.connect("anna", kind="light")
    return scenario


def opened(scenario: Scenario, column: str = "sealed_refresh_token") -> str:
    """Anna's stored token in plain text."""
    row = scenario.row(t.user_tokens, "anna")
    return scenario.pipeline.keyring.open(row["key_id"], row[column], "anna")


def spotifys(scenario: Scenario) -> str:
    """The refresh token that Spotify takes from Anna now."""
    return {
        listener.user_id: listener.refresh_token for listener in scenario.simulator.listeners()
    }["anna"]


def refreshes(scenario: Scenario) -> int:
    return len(scenario.calls("token"))


def test_one_refresh_serves_all_calls_and_all_processes(
    anna: Scenario, open_another: Callable[..., Scenario]
) -> None:
    anna.sync_well("anna")
    assert (refreshes(anna), len(anna.calls("me")), len(anna.calls())) == (1, 1, 9)
    anna.sync_well("anna")
    open_another().sync_well("anna")
    assert (refreshes(anna), len(anna.calls())) == (1, 9 + 7 + 7)


def test_a_token_that_is_about_to_end_is_not_used_again(anna: Scenario) -> None:
    anna.sync_well("anna")
    anna.execute(
        "UPDATE spotify_pipeline.user_tokens SET access_expires_at = now() + interval '100 s'"
    )
    anna.sync_well("anna")
    assert refreshes(anna) == 2
    assert {call.status for call in anna.calls()} == {200}


def test_a_401_refreshes_once_and_the_sync_continues(anna: Scenario) -> None:
    anna.sync_well("anna")
    anna.simulator.expire_access_tokens()
    anna.simulator.forget_calls()
    anna.sync_well("anna")
    assert [call.status for call in anna.calls("token")] == [200]
    assert [call.status for call in anna.calls("recently_played")] == [401, 200]
    assert len(anna.calls()) == 9


def test_threads_whose_calls_were_refused_with_one_token_refresh_it_once(anna: Scenario) -> None:
    anna.sync_well("anna")
    pipeline = anna.pipeline
    with pipeline.engine.connect() as conn:
        (user,) = load_users(conn, ["anna"])
    tokens = UserTokens(
        user, pipeline.engine, pipeline.keyring, pipeline.oauth, pipeline.api.profile
    )
    refused = tokens.access_token()
    with ThreadPoolExecutor(4) as pool:
        (newer,) = set(pool.map(tokens.refresh, [refused] * 4))
    assert newer not in (refused, None)
    # One by the sync before.
    assert (tokens.access_token(), refreshes(anna)) == (newer, 1 + 1)


def test_a_second_401_fails_the_user_without_a_third_try_and_keeps_the_connection(
    anna: Scenario,
) -> None:
    anna.sync_well("anna")
    anna.simulator.add_fault(AccessTokenExpired())
    anna.simulator.forget_calls()
    (outcome,) = anna.sync("anna")
    assert {failure.code for failure in outcome.failures.values()} == {"BAD_RESPONSE"}
    assert [call.status for call in anna.calls("recently_played")] == [401, 401]
    # Nor does the next step's 401 trigger a refresh.
    assert (refreshes(anna), len(anna.calls("top_tracks"))) == (1, 3)
    assert anna.row(t.users, "anna")["connection"] == "connected"


def test_a_rotated_refresh_token_is_stored_and_used(anna: Scenario) -> None:
    anna.simulator.add_fault(RotateRefreshToken())
    for _ in range(3):
        before = opened(anna)
        anna.sync_well("anna")
        assert opened(anna) == spotifys(anna) != before
        anna.simulator.expire_access_tokens()
    assert refreshes(anna) == 3


def test_a_rotated_refresh_token_outlives_a_failed_sync(anna: Scenario) -> None:
    anna.simulator.add_fault(RotateRefreshToken())
    anna.simulator.add_fault(AccessTokenExpired())
    assert anna.sync("anna")[0].result == "failed"
    anna.simulator.clear_faults()
    anna.simulator.expire_access_tokens()
    anna.sync_well("anna")


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_new_refresh_token_the_old_one_is_kept(anna: Scenario, value: str | None) -> None:
    before = opened(anna)
    anna.simulator.add_fault(NullRefreshToken(value))
    anna.sync_well("anna")
    assert opened(anna) == before
    anna.simulator.expire_access_tokens()
    anna.sync_well("anna")
    assert refreshes(anna) == 2


def test_a_reconnect_during_a_refresh_keeps_the_new_connection(anna: Scenario) -> None:
    def reconnect() -> None:
        anna.hand_over("anna", anna.simulator.reconnect("anna").refresh_token)

    anna.meanwhile("refresh", reconnect).sync("anna")
    assert opened(anna) == spotifys(anna)
    assert anna.row(t.user_tokens, "anna")["sealed_access_token"] is None
    assert anna.row(t.users, "anna")["connection"] == "connected"
    anna.sync_well("anna")


def test_a_refusal_of_an_old_token_does_not_end_a_new_connection(anna: Scenario) -> None:
    """Reconnecting revokes the old token: the sync that still uses it gets invalid_grant."""
    anna.sync_well("anna")

    def reconnect() -> None:
        anna.hand_over("anna", anna.simulator.reconnect("anna").refresh_token)
        anna.simulator.expire_access_tokens()

    (outcome,) = anna.meanwhile("recently_played", reconnect).sync("anna")
    # A user who has just reconnected is not asked to.
    assert outcome.error_code == "SPOTIFY_UNAVAILABLE"
    assert anna.row(t.users, "anna")["connection"] == "connected"
    assert anna.row(t.user_tokens, "anna")["last_error_code"] is None
    anna.sync_well("anna")


def test_a_new_key_takes_over_at_the_next_refresh(
    anna: Scenario, environ: dict[str, str], open_another: Callable[..., Scenario]
) -> None:
    key_id, text = new_key()
    keys = f"{text},{environ['SPOTIFY_PIPELINE_TOKEN_KEYS']}"
    rotated = open_another(SPOTIFY_PIPELINE_TOKEN_KEYS=keys)
    before = opened(anna)
    rotated.sync_well("anna")
    assert rotated.row(t.user_tokens, "anna")["key_id"] == key_id
    assert opened(rotated) == before
    rotated.sync_well("anna")
    assert refreshes(anna) == 1
