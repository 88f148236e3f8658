"""A user is one Spotify account for good, whoever hands tokens over."""

import pytest

from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.outcome import UserOutcome
from spotify_pipeline_tests.sync.stage import Stage


@pytest.fixture
def linked(stage: Stage) -> Stage:
    """Anna, whose account is known, and whose plays are."""
    info = stage.connect("anna", person="light")
    stage.execute(
        "UPDATE spotify_pipeline.users SET account_id = :a WHERE user_id = 'anna'",
        a=info.account_id,
    )
    stage.sync_well("anna")
    return stage


def only(outcomes: list[UserOutcome]) -> UserOutcome:
    (outcome,) = outcomes
    return outcome


def test_a_token_of_another_account_brings_no_plays_and_is_not_used_again(linked: Stage) -> None:
    before = linked.dump()["plays"]
    ben = linked.simulator.add_listener("ben", person="heavy")
    linked.hand_over("anna", ben.refresh_token)
    outcome = only(linked.sync("anna"))
    assert outcome.error_code == "RECONNECT"
    assert "another Spotify account" in str(outcome.failure)
    assert linked.row(t.users, "anna")["connection"] == "needs_reauth"
    calls = len(linked.calls())
    assert only(linked.sync("anna")).error_code == "RECONNECT"
    assert len(linked.calls()) == calls
    assert linked.calls("recently_played", "ben") == []
    assert linked.dump()["plays"] == before


def test_a_new_token_of_the_same_account_is_asked_once_whose_it_is(linked: Stage) -> None:
    linked.simulator.forget_calls()
    info = linked.simulator.reconnect("anna")
    linked.hand_over("anna", info.refresh_token)
    linked.sync_well("anna")
    linked.sync_well("anna")
    linked.simulator.expire_access_tokens()
    linked.sync_well("anna")
    assert len(linked.calls("me")) == 1
    assert len(linked.calls("token")) == 2


def test_until_spotify_says_whose_it_is_nothing_is_fetched_with_it(linked: Stage) -> None:
    linked.simulator.forget_calls()
    linked.hand_over("anna", linked.simulator.reconnect("anna").refresh_token)
    fault = linked.simulator.add_fault(ServerError(), endpoint="me")
    assert only(linked.sync("anna")).error_code == "SPOTIFY_UNAVAILABLE"
    assert linked.calls("recently_played") == []
    assert linked.row(t.user_tokens, "anna")["sealed_access_token"] is None
    linked.simulator.clear_faults(fault)
    linked.sync_well("anna")
