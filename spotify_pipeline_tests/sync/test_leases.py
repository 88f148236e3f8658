"""One worker per user: leases are awaited, renewed, taken over, and fence dead workers."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, func, select, text

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work import leases
from spotify_pipeline.storage.work.leases import leased, take
from spotify_pipeline.sync.users import BUSY
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario


@pytest.fixture
def three(scenario: Scenario) -> Scenario:
    """Anna, Ben and Cleo are connected and were never synced."""
    for user_id in ("anna", "ben", "cleo"):
        scenario.connect(user_id)
    return scenario


def steal(scenario: Scenario, user_id: str) -> UUID:
    """Gives the user's lease to another worker."""
    thief = uuid4()
    scenario.execute(
        "UPDATE spotify_pipeline.sync_state SET lease_id = :thief,"
        " lease_until = now() + interval '30 s' WHERE user_id = :u",
        thief=thief,
        u=user_id,
    )
    return thief


def run_out(scenario: Scenario, user_id: str) -> None:
    """Lets the user's lease expire."""
    scenario.execute(
        "UPDATE spotify_pipeline.sync_state SET lease_until = now() - interval '1 ms'"
        " WHERE user_id = :u",
        u=user_id,
    )


def holder(scenario: Scenario, user_id: str) -> UUID | None:
    lease_id: UUID | None = scenario.row(t.sync_state, user_id)["lease_id"]
    return lease_id


def test_a_user_whom_another_worker_syncs_is_skipped_with_the_reason(three: Scenario) -> None:
    with leased(three.pipeline.engine, ["anna"]):
        before = three.dump(versions=True)
        outcomes = three.sync("anna", "ben")
    assert [(o.user_id, o.result, o.skipped) for o in outcomes] == [
        ("anna", "skipped", BUSY),
        ("ben", "synced", None),
    ]
    after = three.dump(versions=True)
    assert not [row for row in after["plays"] if "anna" in row]
    assert [row for row in after["users"] if "anna" in row] == [
        row for row in before["users"] if "anna" in row
    ]
    assert three.calls(user_id="anna") == []
    assert three.row(t.sync_state, "anna")["last_error_code"] is None


def test_a_lease_ends_with_the_sync_and_with_its_interruption(three: Scenario) -> None:
    three.simulator.revoke("ben")
    three.sync("anna", "ben")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        three.meanwhile("top_tracks", interrupt).sync("cleo")
    assert [holder(three, user_id) for user_id in ("anna", "ben", "cleo")] == [None] * 3


class Patience:
    """A clock that only sleeping moves; a callback may run during a sleep."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.seconds = 0.0
        self.then = then

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.then()

    def monotonic(self) -> float:
        return self.seconds

    def on(self, scenario: Scenario) -> Scenario:
        return replace(
            scenario,
            pipeline=replace(scenario.pipeline, sleep=self.sleep, monotonic=self.monotonic),
        )


def test_a_busy_user_is_waited_for_until_the_timeout(three: Scenario) -> None:
    patience = Patience()
    with leased(three.pipeline.engine, ["anna"]):
        outcomes = patience.on(three).sync("anna", "ben", wait_seconds=20)
    assert [outcome.result for outcome in outcomes] == ["skipped", "synced"]
    assert 20 <= patience.seconds <= 20 + leases.RETRY_SECONDS


def test_a_busy_user_is_synced_as_soon_as_the_other_worker_ends(three: Scenario) -> None:
    patience = Patience(lambda: run_out(three, "anna"))
    steal(three, "anna")
    (outcome,) = patience.on(three).sync("anna", wait_seconds=20)
    assert outcome.result == "synced"
    assert patience.seconds <= 2 * leases.RETRY_SECONDS


def test_a_worker_waiting_for_a_lease_releases_the_later_users(three: Scenario) -> None:
    """Otherwise two workers, each holding a part of the same set, would deadlock."""
    held: list[tuple[UUID | None, ...]] = []
    patience = Patience(
        lambda: held.append(tuple(holder(three, user_id) for user_id in ("anna", "cleo")))
    )
    with leased(three.pipeline.engine, ["ben"]):
        outcomes = patience.on(three).sync("cleo", "ben", "anna", wait_seconds=2)
    assert [outcome.result for outcome in outcomes] == ["synced", "skipped", "synced"]
    assert held
    for before, after in held:
        assert before is not None
        assert after is None


def test_the_lease_of_a_dead_worker_is_inherited_when_it_has_run_out(three: Scenario) -> None:
    with three.pipeline.engine.begin() as conn:
        assert take(conn, ["anna"], uuid4()) == {"anna"}
    lasts = select(t.sync_state.c.lease_until - func.now()).where(t.sync_state.c.user_id == "anna")
    with three.pipeline.engine.connect() as conn:
        assert timedelta(seconds=25) < conn.scalar(lasts) <= timedelta(seconds=30)
    assert three.sync("anna")[0].skipped == BUSY
    run_out(three, "anna")
    three.sync_well("anna")
    assert holder(three, "anna") is None


def test_a_worker_whose_lease_was_taken_writes_nothing(three: Scenario) -> None:
    before = three.row(t.sync_state, "anna") | three.row(t.users, "anna")
    thieves: list[UUID] = []
    outcomes = three.meanwhile(
        "recently_played", lambda: thieves.append(steal(three, "anna"))
    ).sync("anna", "ben")
    assert [(o.result, o.error_code) for o in outcomes] == [("failed", "CRASHED"), ("synced", None)]
    after = three.dump()
    for name in ("plays", "daily_listening", "top_list_artists", "music_personality"):
        assert {row[0] for row in after[name]} == {"ben"}, name
    # The rows of the new lease holder are not changed either.
    now = three.row(t.sync_state, "anna") | three.row(t.users, "anna")
    held = {"lease_id": thieves[0], "lease_until": now["lease_until"]}
    # The account id was fetched before.
    assert now == before | held | {"account_id": now["account_id"]}


def test_a_worker_whose_lease_has_run_out_writes_nothing(three: Scenario) -> None:
    (outcome,) = three.meanwhile("recently_played", lambda: run_out(three, "anna")).sync("anna")
    assert (outcome.result, outcome.error_code) == ("failed", "CRASHED")
    assert three.rows(t.plays) == []


def test_a_lease_is_renewed_during_the_work(
    three: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
    until = select(t.sync_state.c.lease_until).where(t.sync_state.c.user_id == "anna")
    renewed = threading.Event()

    def ends(engine: Engine) -> datetime:
        with engine.connect() as conn:
            end: datetime = conn.scalar(until)
            return end

    with leased(three.pipeline.engine, ["anna"]):
        first = ends(three.pipeline.engine)
        for _ in range(1000):
            if ends(three.pipeline.engine) > first:
                renewed.set()
                break
            renewed.wait(0.01)
    assert renewed.is_set()


def test_a_renewal_does_not_bring_back_a_lost_lease(
    three: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
    rounds = threading.Semaphore(0)
    really = leases.take
    monkeypatch.setattr(leases, "take", lambda *args: (really(*args), rounds.release())[0])
    with leased(three.pipeline.engine, ["anna"]):
        thief = steal(three, "anna")
        for _ in range(4):
            assert rounds.acquire(timeout=10)
        assert holder(three, "anna") == thief
    assert holder(three, "anna") == thief


def test_a_user_forgotten_during_a_sync_leaves_nothing_and_the_others_are_stored(
    three: Scenario,
) -> None:
    outcomes = three.meanwhile("recently_played", lambda: three.forget("ben")).sync(
        "anna", "ben", "cleo"
    )
    assert [outcome.result for outcome in outcomes] == ["synced", "gone", "synced"]
    # The tombstone stays until the user is purged from Dagster too.
    after = three.dump()
    assert after.pop("forgotten")
    assert {row[0] for row in after["plays"]} == {"anna", "cleo"}
    assert not [row for rows in after.values() for row in rows if "ben" in row]


def test_workers_that_start_together_divide_a_set_of_users(three: Scenario) -> None:
    """Overlapping sets: no deadlock, and no user is leased twice."""
    first, second = uuid4(), uuid4()
    with three.pipeline.engine.connect() as one, three.pipeline.engine.connect() as two:
        held = take(one, ["cleo", "anna"], first)
        # The first has not committed: the second must not wait for it.
        two.execute(text("SET LOCAL lock_timeout = '2 s'"))
        assert take(two, ["anna", "ben", "cleo"], second) == {"ben"}
        two.commit()
        one.commit()
    assert held == {"anna", "cleo"}


def test_a_lease_that_ends_in_six_hours_is_ignored(three: Scenario) -> None:
    steal(three, "anna")
    assert three.sync("anna")[0].skipped == BUSY
    three.execute(
        "UPDATE spotify_pipeline.sync_state SET lease_id = gen_random_uuid(),"
        " lease_until = now() + interval '6 h'"
    )
    three.sync_well("anna")


def test_a_lease_taken_after_a_transaction_began_is_respected_in_it(three: Scenario) -> None:
    with three.pipeline.engine.begin() as conn:
        conn.execute(select(func.now()))
        conn.execute(select(func.pg_sleep(0.1)))
        steal(three, "anna")
        assert take(conn, ["anna"], uuid4()) == set()
