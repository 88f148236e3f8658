"""A user keeps one Spotify account, whatever tokens an app hands over."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from spotify_pipeline.domain.error_codes import OTHER_ACCOUNT
from spotify_pipeline.domain.outcome import RECENTLY_PLAYED, UserOutcome
from spotify_pipeline.simulator.control import ListenerInfo
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.refusals import (
    Body,
    Forbidden,
    RateLimited,
    ServerError,
)
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario
from spotify_pipeline_tests.sync.requests.test_requests import answer, ask
from spotify_pipeline_tests.sync.tokens.test_connections import wait_for_locks

PLAYS = (RECENTLY_PLAYED,)


@pytest.fixture
def anna(scenario: Scenario) -> ListenerInfo:
    """She is connected by the app, and nothing was fetched yet."""
    return scenario.connect("anna", kind="light")


@pytest.fixture
def linked(scenario: Scenario, anna: ListenerInfo) -> Scenario:
    """Anna's plays are known, and so is her account."""
    scenario.sync_well("anna")
    assert account(scenario, "anna") == anna.account_id
    assert len(scenario.calls("me")) == 1
    scenario.simulator.forget_calls()
    return scenario


def account(scenario: Scenario, user_id: str) -> object:
    return scenario.row(t.users, user_id)["account_id"]


def reconnect(scenario: Scenario, user_id: str = "anna") -> None:
    scenario.hand_over(user_id, scenario.simulator.reconnect("anna").refresh_token)


def only(outcomes: list[UserOutcome]) -> UserOutcome:
    (outcome,) = outcomes
    return outcome


# --- the account is known -----------------------------------------------------------------------


def test_a_token_of_another_account_stores_no_plays_and_is_not_used_again(linked: Scenario) -> None:
    before = linked.dump()
    ben = linked.simulator.add_listener("ben", kind="heavy")
    linked.hand_over("anna", ben.refresh_token)
    outcome = only(answer(linked, ask(linked, "anna")))
    assert outcome.error_code == "RECONNECT"
    with linked.pipeline.engine.connect() as conn:
        reported = conn.execute(text("SELECT * FROM spotify_pipeline.sync_status")).one()
    assert (reported.connection, reported.state) == ("needs_reauth", "failed")
    assert (reported.error_code, reported.error_message) == ("RECONNECT", OTHER_ACCOUNT)
    calls = len(linked.calls())
    assert only(linked.sync("anna")).error_code == "RECONNECT"
    assert len(linked.calls()) == calls
    assert linked.calls("recently_played", "ben") == []
    after = linked.dump()
    for table in ("plays", "daily_listening", "top_list_tracks", "coverage"):
        assert after[table] == before[table]
    # The way out.
    reconnect(linked)
    linked.sync_well("anna")


def test_a_new_token_asks_for_the_profile_once(linked: Scenario) -> None:
    reconnect(linked)
    linked.sync_well("anna")
    linked.sync_well("anna")
    linked.simulator.expire_access_tokens()
    linked.sync_well("anna")
    assert len(linked.calls("me")) == 1
    assert len(linked.calls("token")) == 2


def test_a_token_fetches_nothing_before_its_account_is_known(linked: Scenario) -> None:
    reconnect(linked)
    fault = linked.simulator.add_fault(ServerError(), endpoint="me")
    assert only(linked.sync("anna")).error_code == "SPOTIFY_UNAVAILABLE"
    assert linked.calls("recently_played") == []
    assert linked.row(t.user_tokens, "anna")["sealed_access_token"] is None
    linked.simulator.clear_faults(fault)
    linked.sync_well("anna")


def set_profile(scenario: Scenario, **profile: str) -> None:
    """From now on Spotify's profile is this."""
    scenario.simulator.clear_faults()
    scenario.simulator.add_fault(Body(text=json.dumps(profile)), endpoint="me")


def test_an_account_matches_by_either_of_its_stored_ids(scenario: Scenario) -> None:
    """Spotify has sent account_id since May 2026 only, and may not send it to every app."""
    scenario.connect("anna", kind="light")
    set_profile(scenario, id="anna")
    scenario.sync_well("anna", steps=PLAYS)
    set_profile(scenario, id="anna", account_id="A1")
    reconnect(scenario)
    scenario.sync_well("anna", steps=PLAYS)
    set_profile(scenario, id="anna renamed", account_id="A1")
    reconnect(scenario)
    scenario.sync_well("anna", steps=PLAYS)
    set_profile(scenario, id="ben", account_id="B1")
    reconnect(scenario)
    assert only(scenario.sync("anna", steps=PLAYS)).error_code == "RECONNECT"


def test_a_profile_without_the_stored_account_id_disconnects_no_user(linked: Scenario) -> None:
    set_profile(linked, id="anna")
    reconnect(linked)
    assert only(linked.sync("anna", steps=PLAYS)).error_code == "BAD_RESPONSE"
    assert linked.row(t.users, "anna")["connection"] == "connected"
    assert linked.calls("recently_played") == []
    linked.simulator.clear_faults()
    linked.sync_well("anna", steps=PLAYS)


# --- it is learned ------------------------------------------------------------------------------


def test_a_reconnect_learns_the_account_of_a_user_who_has_none(
    linked: Scenario, anna: ListenerInfo
) -> None:
    linked.execute("UPDATE spotify_pipeline.users SET account_id = NULL")
    reconnect(linked)
    linked.sync_well("anna", steps=PLAYS)
    assert account(linked, "anna") == anna.account_id


@pytest.mark.parametrize("fault", [ServerError(), Forbidden(reason="other")])
def test_an_unknown_account_is_asked_again_at_the_next_sync(
    scenario: Scenario, anna: ListenerInfo, fault: Fault
) -> None:
    scenario.simulator.add_fault(fault, endpoint="me")
    scenario.sync_well("anna", steps=PLAYS)
    assert account(scenario, "anna") is None
    scenario.simulator.clear_faults()
    scenario.sync_well("anna", steps=PLAYS)
    assert account(scenario, "anna") == anna.account_id
    scenario.simulator.forget_calls()
    scenario.sync_well("anna", steps=PLAYS)
    assert [call.endpoint for call in scenario.calls()] == ["recently_played"]


def test_a_429_of_the_profile_delays_all_calls(scenario: Scenario, anna: ListenerInfo) -> None:
    scenario.simulator.add_fault(RateLimited(retry_after=3600), endpoint="me")
    assert only(scenario.sync("anna")).error_code == "RATE_LIMITED"
    assert [call.endpoint for call in scenario.calls()] == ["token", "me"]
    scenario.simulator.clear_faults()
    scenario.execute("UPDATE spotify_pipeline.api_budget SET blocked_until = now()")
    scenario.sync_well("anna", steps=PLAYS)
    assert account(scenario, "anna") == anna.account_id


def test_a_connection_without_the_profile_scope_works_and_asks_for_the_profile_once(
    scenario: Scenario, anna: ListenerInfo
) -> None:
    scenario.simulator.add_fault(Forbidden(reason="scope"), endpoint="me")
    scenario.sync_well("anna", steps=PLAYS)
    scenario.simulator.expire_access_tokens()
    scenario.sync_well("anna", steps=PLAYS)
    assert len(scenario.calls("me")) == 1
    assert account(scenario, "anna") is None


# --- whose else it may be -----------------------------------------------------------------------


def test_one_account_under_two_user_ids_syncs_both_and_is_learned_after_one_is_deleted(
    linked: Scenario, anna: ListenerInfo
) -> None:
    linked.hand_over("anna of today", anna.refresh_token)
    linked.sync_well("anna", "anna of today", steps=PLAYS)
    linked.simulator.expire_access_tokens()
    linked.sync_well("anna of today", steps=PLAYS)
    assert (account(linked, "anna"), account(linked, "anna of today")) == (anna.account_id, None)
    assert len(linked.calls("me")) == 1
    linked.forget("anna")
    reconnect(linked, "anna of today")
    linked.sync_well("anna of today", steps=PLAYS)
    assert account(linked, "anna of today") == anna.account_id


def test_the_second_process_to_learn_an_account_syncs_without_it(
    scenario: Scenario, anna: ListenerInfo
) -> None:
    scenario.hand_over("anna of today", anna.refresh_token)
    u = t.users
    other = u.update().where(u.c.user_id == "anna").values(account_id=anna.account_id)
    with ThreadPoolExecutor(1) as pool:
        with scenario.pipeline.engine.begin() as conn:
            conn.execute(other)
            syncing = pool.submit(scenario.sync_well, "anna of today", steps=PLAYS)
            wait_for_locks(scenario, 1)
        syncing.result()
    assert (account(scenario, "anna"), account(scenario, "anna of today")) == (
        anna.account_id,
        None,
    )


def test_a_user_relinked_during_a_fetch_gets_no_plays_of_the_old_account(
    scenario: Scenario, anna: ListenerInfo
) -> None:
    def link() -> None:
        scenario.execute("UPDATE spotify_pipeline.users SET account_id = 'another'")

    outcome = only(scenario.meanwhile("profile", link).sync("anna"))
    assert outcome.error_code == "RECONNECT"
    assert scenario.calls("recently_played") == []
