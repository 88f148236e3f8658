"""Who is refused, who is believed to be refused, and who is asked again."""

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, text

from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.simulator.faults.refusals import InvalidGrant, ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.connection import (
    OUTAGE,
    drop_dead_tokens,
    record_refusal,
    refresh_connection_states,
)
from spotify_pipeline.storage.users.queries import SealedToken, load_users
from spotify_pipeline.storage.work.leases import leased, lock_held
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

PLAYS = (RECENTLY_PLAYED,)
FIVE = ("ann", "bob", "cem", "dia", "eve")
WAIT_SECONDS = 20.0


@pytest.fixture
def five(scenario: Scenario) -> Scenario:
    """Five users whose access tokens were issued and have expired within the hour."""
    return gather(scenario, FIVE)


def gather(scenario: Scenario, user_ids: Collection[str]) -> Scenario:
    for user_id in user_ids:
        scenario.connect(user_id, kind="light")
    scenario.sync_well(*user_ids, steps=PLAYS)
    end_access_tokens(scenario)
    scenario.simulator.forget_calls()
    return scenario


def end_access_tokens(scenario: Scenario) -> None:
    """As an hour does; of when they were got nothing is changed."""
    scenario.execute(
        "UPDATE spotify_pipeline.user_tokens"
        " SET sealed_access_token = NULL, access_expires_at = NULL"
    )


def later(scenario: Scenario, minutes: float) -> None:
    """Moves what was asked of Spotify into the past; the database's clock cannot be set."""
    scenario.execute(
        "UPDATE spotify_pipeline.user_tokens"
        " SET last_refreshed_at = last_refreshed_at - make_interval(mins => :m)",
        m=minutes,
    )
    end_access_tokens(scenario)


def refuse(scenario: Scenario, *user_ids: str) -> None:
    """From now on Spotify refuses their refresh tokens, good as they are."""
    scenario.simulator.clear_faults()
    for user_id in user_ids:
        scenario.simulator.add_fault(InvalidGrant(), user_id=user_id)


def sync(scenario: Scenario, *user_ids: str) -> dict[str, str | None]:
    """The error code of each user."""
    return {o.user_id: o.error_code for o in scenario.sync(*user_ids, steps=PLAYS)}


def connections(scenario: Scenario) -> dict[str, str]:
    return {row["user_id"]: row["connection"] for row in scenario.rows(t.users)}


def messages(scenario: Scenario) -> dict[str, str | None]:
    """What the app shows as the error of each user's last sync."""
    with scenario.pipeline.engine.connect() as conn:
        rows = conn.execute(text("SELECT user_id, error_code FROM spotify_pipeline.sync_status"))
        return {row.user_id: row.error_code for row in rows}


def tokens(scenario: Scenario) -> dict[str, bytes]:
    return {row["user_id"]: row["sealed_refresh_token"] for row in scenario.rows(t.user_tokens)}


def all_are(value: str | None, *user_ids: str) -> dict[str, str | None]:
    return dict.fromkeys(user_ids or FIVE, value)


# --- one of many --------------------------------------------------------------------------------


def test_a_single_refused_user_is_not_refreshed_again_and_others_continue(
    scenario: Scenario,
) -> None:
    names = [f"listener {number:02}" for number in range(12)]
    lost, *others = names
    gather(scenario, names)
    refuse(scenario, lost)
    for _ in range(5):
        codes = sync(scenario, *names)
        assert codes == {lost: "RECONNECT", **dict.fromkeys(others)}
        later(scenario, 61)
    assert [call.status for call in scenario.calls(user_id=lost)] == [400]
    assert {call.status for call in scenario.calls() if call.user_id != lost} == {200}
    assert connections(scenario) == {lost: "needs_reauth", **dict.fromkeys(others, "connected")}
    assert tokens(scenario).keys() == set(names)


@pytest.mark.parametrize(
    ("refused", "outage"),
    [
        (("ann",), False),
        (("ann", "bob"), False),
        (("ann", "bob", "cem"), True),  # three, and more than two of the five were honoured
        (FIVE, True),
    ],
)
def test_an_outage_needs_three_refusals_and_more_than_half(
    five: Scenario, refused: tuple[str, ...], outage: bool
) -> None:
    refuse(five, *refused)
    codes = sync(five, *FIVE)
    code, state = ("SPOTIFY_UNAVAILABLE", "suspect") if outage else ("RECONNECT", "needs_reauth")
    assert codes == {**all_are(None), **all_are(code, *refused)}
    assert connections(five) == {**all_are("connected"), **all_are(state, *refused)}


def test_exactly_half_is_no_outage(five: Scenario) -> None:
    gather(five, ["fay"])
    refuse(five, "ann", "bob", "cem")
    sync(five, *FIVE, "fay")
    assert list(connections(five).values()) == ["needs_reauth"] * 3 + ["connected"] * 3


def test_two_refusals_of_two_users_are_no_outage(scenario: Scenario) -> None:
    gather(scenario, ["ann", "bob"])
    refuse(scenario, "ann", "bob")
    assert sync(scenario, "ann", "bob") == all_are("RECONNECT", "ann", "bob")


def test_refreshes_more_than_an_hour_ago_do_not_count(five: Scenario) -> None:
    refuse(five, "ann", "bob")
    sync(five, "ann", "bob")
    later(five, 61)
    refuse(five, "cem")
    assert sync(five, "cem") == {"cem": "RECONNECT"}
    assert connections(five) == {
        **all_are("needs_reauth", "ann", "bob", "cem"),
        **all_are("connected", "dia", "eve"),
    }


# --- an outage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", ["1", "16"])
def test_an_outage_loses_no_token_and_asks_no_user_to_reconnect(
    five: Scenario, open_another: Callable[..., Scenario], threads: str
) -> None:
    before = tokens(five)
    refuse(five, *FIVE)
    # With one thread the first two are evaluated before it counts as an outage.
    outcomes = open_another(SPOTIFY_PIPELINE_CONNECTIONS=threads).sync(*FIVE)
    for outcome in outcomes:
        assert {failure.code for failure in outcome.failures.values()} == {"SPOTIFY_UNAVAILABLE"}
    assert connections(five) == all_are("suspect")
    assert messages(five) == all_are("SPOTIFY_UNAVAILABLE")
    assert all(OUTAGE in row["last_error_message"] for row in five.rows(t.sync_state))
    assert tokens(five) == before
    assert len(five.calls()) == len(five.calls("token")) == 5


def test_users_marked_needs_reauth_before_the_outage_become_suspect(
    five: Scenario,
) -> None:
    before = tokens(five)
    refuse(five, *FIVE)
    assert sync(five, "ann") == {"ann": "RECONNECT"}
    five.execute("SELECT spotify_pipeline.request_sync('bob')")
    assert sync(five, "bob") == {"bob": "RECONNECT"}
    five.execute("UPDATE spotify_pipeline.sync_requests SET status = 'running'")
    five.execute(
        "UPDATE spotify_pipeline.sync_requests SET status = 'failed', error_code = 'RECONNECT'"
    )
    # Ann asked for nothing: that she has to reconnect is her connection, and no failed sync.
    assert connections(five)["ann"] == "needs_reauth"
    assert messages(five) == {"bob": "RECONNECT", **all_are(None, "ann", *FIVE[2:])}
    assert sync(five, "cem") == {"cem": "SPOTIFY_UNAVAILABLE"}
    assert connections(five) == {
        **all_are("suspect", "ann", "bob", "cem"),
        **all_are("connected", "dia", "eve"),
    }
    assert messages(five) == {
        **all_are("SPOTIFY_UNAVAILABLE", "ann", "bob", "cem"),
        **all_are(None, "dia", "eve"),
    }
    assert tokens(five) == before


def test_a_user_refused_long_before_the_outage_stays_refused(five: Scenario) -> None:
    refuse(five, *FIVE)
    sync(five, "ann")
    later(five, 61)
    sync(five, *FIVE[1:])
    assert connections(five) == {"ann": "needs_reauth", **all_are("suspect", *FIVE[1:])}
    assert messages(five)["ann"] is None


def test_concurrent_outage_checks_see_each_others_refusals(
    five: Scenario, open_another: Callable[..., Scenario]
) -> None:
    engines = [open_another().pipeline.engine for _ in FIVE]
    sealed = sealed_tokens(five)

    def judge(engine: Engine, user_id: str) -> str | None:
        with engine.begin() as conn:
            return record_refusal(conn, user_id, sealed[user_id])

    with ThreadPoolExecutor(len(FIVE)) as pool, engines[0].begin() as conn:
        first = record_refusal(conn, "ann", sealed["ann"])
        others = [pool.submit(judge, *pair) for pair in zip(engines[1:], FIVE[1:], strict=True)]
        wait_for_locks(five, len(others))
    assert first == "needs_reauth"
    assert sorted(str(other.result()) for other in others) == ["needs_reauth", *["suspect"] * 3]
    assert connections(five) == all_are("suspect")


def sealed_tokens(scenario: Scenario) -> dict[str, SealedToken]:
    with scenario.pipeline.engine.connect() as conn:
        return {user.user_id: user.token for user in load_users(conn, FIVE) if user.token}


def wait_for_locks(scenario: Scenario, count: int) -> None:
    """Until so many connections to this database wait for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + WAIT_SECONDS
    with scenario.pipeline.engine.connect() as conn:
        while conn.scalar(waiting) != count:
            conn.rollback()  # else the same snapshot of the activity comes again
            assert time.monotonic() < deadline, "nobody waits"
            time.sleep(0.01)


# --- suspects -----------------------------------------------------------------------------------


@pytest.fixture
def outage(five: Scenario) -> Scenario:
    """Spotify has just refused all five."""
    refuse(five, *FIVE)
    sync(five, *FIVE)
    five.simulator.forget_calls()
    return five


def test_a_suspect_is_probed_once_an_hour_until_the_outage_ends(outage: Scenario) -> None:
    before = tokens(outage)
    for hour in range(1, 4):
        for minutes in (14, 15, 15, 15, 2):
            assert sync(outage, *FIVE) == all_are("SPOTIFY_UNAVAILABLE")
            assert len(outage.calls()) == 5 * (hour - 1)
            later(outage, minutes)
        assert sync(outage, *FIVE) == all_are("SPOTIFY_UNAVAILABLE")
        assert {user_id: len(outage.calls("token", user_id)) for user_id in FIVE} == (
            dict.fromkeys(FIVE, hour)
        )
    assert connections(outage) == all_are("suspect")
    assert tokens(outage) == before


def test_a_suspect_probed_alone_stays_suspect_while_no_refresh_succeeds(
    outage: Scenario,
) -> None:
    for user_id in FIVE:
        later(outage, 61)
        assert sync(outage, user_id) == {user_id: "SPOTIFY_UNAVAILABLE"}
        assert len(outage.calls("token", user_id)) == 1
    assert connections(outage) == all_are("suspect")


def test_a_probe_is_claimed_by_one_process_only(
    outage: Scenario, open_another: Callable[..., Scenario]
) -> None:
    later(outage, 61)
    outage.simulator.clear_faults()
    outage.simulator.add_fault(ServerError(503))
    sync(outage, "ann")
    calls = len(outage.calls())
    assert calls > 0
    assert sync(open_another(), "ann") == {"ann": "SPOTIFY_UNAVAILABLE"}
    assert len(outage.calls()) == calls
    assert connections(outage) == all_are("suspect")


def test_a_suspect_whose_refresh_succeeds_is_connected_again(outage: Scenario) -> None:
    outage.execute(
        "UPDATE spotify_pipeline.user_tokens SET expires_at = now() + interval '5 days'"
        " WHERE user_id = 'bob'"
    )
    later(outage, 61)
    outage.simulator.clear_faults()
    assert sync(outage, *FIVE) == all_are(None)
    assert connections(outage) == {**all_are("connected"), "bob": "expiring"}
    assert messages(outage) == all_are(None)
    assert {row["last_error_code"] for row in outage.rows(t.user_tokens)} == {None}
    later(outage, 61)
    assert sync(outage, *FIVE) == all_are(None)


def test_a_suspect_refused_while_other_refreshes_succeed_needs_reauth(
    outage: Scenario,
) -> None:
    later(outage, 61)
    refuse(outage, "ann")
    assert sync(outage, *FIVE[1:]) == all_are(None, *FIVE[1:])
    assert sync(outage, "ann") == {"ann": "RECONNECT"}
    assert connections(outage) == {"ann": "needs_reauth", **all_are("connected", *FIVE[1:])}
    outage.simulator.forget_calls()
    later(outage, 61)
    assert sync(outage, "ann") == {"ann": "RECONNECT"}
    assert outage.calls() == []


def test_unanswered_probes_do_not_change_other_users(outage: Scenario) -> None:
    gather(outage, ["fay"])
    later(outage, 61)
    refuse(outage, "fay")
    for user_id in FIVE:
        outage.simulator.add_fault(ServerError(503), user_id=user_id)
    assert sync(outage, *FIVE) == all_are("SPOTIFY_UNAVAILABLE")
    # Three users without an answer have opened the circuit breaker; its pause is over.
    outage.execute("UPDATE spotify_pipeline.api_budget SET outage_until = NULL")
    assert sync(outage, "fay") == {"fay": "RECONNECT"}


def test_a_reconnected_user_is_no_longer_suspect(outage: Scenario) -> None:
    outage.simulator.clear_faults()
    outage.hand_over("ann", outage.simulator.reconnect("ann").refresh_token)
    assert connections(outage)["ann"] == "connected"
    assert messages(outage)["ann"] is None
    assert sync(outage, "ann") == {"ann": None}


# --- the end of a connection --------------------------------------------------------------------


def expire(scenario: Scenario, user_id: str, **until: float) -> datetime:
    """Moves the end of a connection to so far from the database's now."""
    scenario.execute(
        "UPDATE spotify_pipeline.user_tokens SET expires_at = now() + :until WHERE user_id = :u",
        u=user_id,
        until=timedelta(**until),
    )
    expires_at: datetime = scenario.row(t.user_tokens, user_id)["expires_at"]
    return expires_at


def test_an_expired_connection_is_not_refreshed_and_counts_for_no_outage(five: Scenario) -> None:
    for user_id in ("ann", "bob", "cem"):
        expire(five, user_id, seconds=-1)
    refuse(five, "dia")
    codes = sync(five, *FIVE)
    assert codes == {**all_are("RECONNECT"), "eve": None}
    assert connections(five) == {**all_are("needs_reauth"), "eve": "connected"}
    assert {call.user_id for call in five.calls()} == {"dia", "eve"}


def test_an_expired_suspect_needs_reauth(outage: Scenario) -> None:
    expire(outage, "ann", seconds=-1)
    later(outage, 61)
    assert sync(outage, "ann") == {"ann": "RECONNECT"}
    assert outage.calls() == []


def test_a_connection_is_expiring_for_its_last_30_days_and_works_on(five: Scenario) -> None:
    expire(five, "ann", days=30, minutes=-1)
    expire(five, "bob", days=30, minutes=1)
    assert sync(five, *FIVE) == all_are(None)
    assert connections(five) == {**all_are("connected"), "ann": "expiring"}
    five.hand_over("ann", five.simulator.reconnect("ann").refresh_token)
    assert connections(five)["ann"] == "connected"
    assert sync(five, *FIVE) == all_are(None)
    assert connections(five) == all_are("connected")


def test_an_expiring_connection_that_is_refused_has_to_reconnect(five: Scenario) -> None:
    expire(five, "ann", days=5)
    refuse(five, "ann")
    assert sync(five, "ann") == {"ann": "RECONNECT"}
    assert connections(five)["ann"] == "needs_reauth"


def test_all_connections_are_brought_up_to_date_without_a_sync(five: Scenario) -> None:
    expire(five, "ann", days=5)
    expire(five, "bob", seconds=-1)
    with five.pipeline.engine.begin() as conn:
        refresh_connection_states(conn)
    assert connections(five) == {**all_are("connected"), "ann": "expiring", "bob": "needs_reauth"}


def test_tokens_are_kept_until_30_days_past_their_end(five: Scenario) -> None:
    expire(five, "ann", days=-30, minutes=-1)
    expire(five, "bob", days=-30, minutes=1)
    plays = five.rows(t.plays)
    with five.pipeline.engine.begin() as conn:
        assert drop_dead_tokens(conn) == 1
        assert drop_dead_tokens(conn) == 0
    assert tokens(five).keys() == set(FIVE[1:])
    assert connections(five)["ann"] == "disconnected"
    assert five.rows(t.plays) == plays
    assert sync(five, "ann") == {"ann": "RECONNECT"}


# --- reconnecting at the same moment ------------------------------------------------------------


def connect_again(scenario: Scenario, user_id: str, finished: list[str]) -> threading.Thread:
    """Somebody reconnects in the background."""
    refresh_token = scenario.simulator.reconnect(user_id).refresh_token

    def connect() -> None:
        scenario.hand_over(user_id, refresh_token)
        finished.append(user_id)

    thread = threading.Thread(target=connect)
    thread.start()
    return thread


def test_a_reconnect_during_a_write_waits_and_both_succeed(five: Scenario) -> None:
    finished: list[str] = []
    with leased(five.pipeline.engine, ["ann"]) as lease:
        with five.pipeline.engine.begin() as conn:
            lock_held(conn, ["ann"], lease.lease_id)
            thread = connect_again(five, "ann", finished)
            wait_for_locks(five, 1)
            conn.execute(t.users.update().where(t.users.c.user_id == "ann").values(days_stale=True))
        thread.join(WAIT_SECONDS)
    assert finished == ["ann"]
    assert five.row(t.users, "ann")["days_stale"]
    assert sync(five, "ann") == {"ann": None}


def test_a_reconnect_during_the_outage_check_keeps_the_new_connection(
    five: Scenario,
) -> None:
    finished: list[str] = []
    sealed = sealed_tokens(five)
    refuse(five, "ann")
    sync(five, "ann")
    five.simulator.clear_faults()
    with five.pipeline.engine.begin() as conn:
        assert record_refusal(conn, "ann", sealed["ann"]) == "needs_reauth"
        thread = connect_again(five, "ann", finished)
        wait_for_locks(five, 1)
        # The outage check continues: two more refusals, and all of them become suspect.
        for user_id in ("bob", "cem"):
            record_refusal(conn, user_id, sealed[user_id])
    thread.join(WAIT_SECONDS)
    assert finished == ["ann"]
    assert connections(five) == {**all_are("connected"), **all_are("suspect", "bob", "cem")}
    assert five.row(t.user_tokens, "ann")["last_error_code"] is None
    assert sync(five, "ann") == {"ann": None}


def test_a_refusal_of_a_token_replaced_meanwhile_is_ignored(five: Scenario) -> None:
    sealed = sealed_tokens(five)
    five.hand_over("ann", five.simulator.reconnect("ann").refresh_token)
    with five.pipeline.engine.begin() as conn:
        assert record_refusal(conn, "ann", sealed["ann"]) is None
    assert connections(five) == all_are("connected")
    with five.pipeline.engine.connect() as conn:
        assert conn.scalar(select(func.count()).where(t.user_tokens.c.last_error_code > "")) == 0
