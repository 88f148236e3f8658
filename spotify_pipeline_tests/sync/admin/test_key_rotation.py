"""Keys change while syncs go on: no token is lost, and in the end the old key is not needed."""

import threading
from collections.abc import Callable

import pytest

from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.simulator.faults.edits import RotateRefreshToken
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.admin.keys import rotate, tokens_by_key
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

KEYS = "SPOTIFY_PIPELINE_TOKEN_KEYS"
PLAYS = (RECENTLY_PLAYED,)
Open = Callable[..., Scenario]


@pytest.fixture
def old(environ: dict[str, str]) -> str:
    """The key with which all tokens are sealed at first."""
    return environ[KEYS]


@pytest.fixture
def new() -> str:
    """The key that is to take its place."""
    return new_key()[1]


def opened(scenario: Scenario, user_id: str) -> str:
    """The user's stored refresh token."""
    row = scenario.row(t.user_tokens, user_id)
    return scenario.pipeline.keyring.open(row["key_id"], row["sealed_refresh_token"], user_id)


def test_a_token_refreshed_during_a_rotation_of_its_row_is_kept(
    scenario: Scenario, open_another: Open, old: str, new: str
) -> None:
    first = scenario.connect("anna").refresh_token
    scenario.simulator.add_fault(RotateRefreshToken(), user_id="anna", times=1)
    both = open_another(**{KEYS: f"{new},{old}"})
    with_both = open_another(**{KEYS: f"{old},{new}"})
    with_both.meanwhile(
        "refresh", lambda: rotate(both.pipeline.engine, both.pipeline.keyring) and None
    ).sync_well("anna", steps=PLAYS)
    kept = opened(with_both, "anna")
    assert kept not in (first, "")
    scenario.simulator.expire_access_tokens()
    both.sync_well("anna", steps=PLAYS)


def test_a_token_refreshed_by_a_process_without_the_new_key_is_kept(
    scenario: Scenario, open_another: Open, old: str, new: str
) -> None:
    first = scenario.connect("anna").refresh_token
    scenario.simulator.add_fault(RotateRefreshToken(), user_id="anna", times=1)
    both = open_another(**{KEYS: f"{new},{old}"})
    scenario.meanwhile(
        "refresh", lambda: rotate(both.pipeline.engine, both.pipeline.keyring) and None
    ).sync("anna", steps=PLAYS)
    assert opened(both, "anna") not in (first, "")
    scenario.simulator.expire_access_tokens()
    both.sync_well("anna", steps=PLAYS)


def test_a_reconnect_in_the_middle_of_a_refresh_is_not_overwritten(
    scenario: Scenario, open_another: Open, old: str, new: str
) -> None:
    scenario.connect("anna")
    both = open_another(**{KEYS: f"{new},{old}"})

    def reconnect() -> None:
        info = scenario.simulator.reconnect("anna")
        both.hand_over("anna", info.refresh_token)

    scenario.meanwhile("refresh", reconnect).sync("anna", steps=PLAYS)
    (info,) = (
        listener for listener in scenario.simulator.listeners() if listener.user_id == "anna"
    )
    assert opened(both, "anna") == info.refresh_token


def test_an_interrupted_rotation_resumes(
    scenario: Scenario, open_another: Open, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spotify_pipeline.sync.admin.keys.BATCH", 2)
    users = [f"user-{number}" for number in range(7)]
    for user_id in users:
        scenario.hand_over(user_id, f"token of {user_id}")
    both = open_another(**{KEYS: f"{new},{old}"})

    class Killed(Exception):
        pass

    def kill(done: int) -> None:
        if done >= 4:
            raise Killed

    with pytest.raises(Killed):
        rotate(both.pipeline.engine, both.pipeline.keyring, kill)
    assert sorted(tokens_by_key(both.pipeline.engine).values()) == [3, 4]
    assert rotate(both.pipeline.engine, both.pipeline.keyring).resealed == 3
    only_new = open_another(**{KEYS: new})
    assert [opened(only_new, user_id) for user_id in users] == [f"token of {u}" for u in users]
    assert rotate(both.pipeline.engine, both.pipeline.keyring).resealed == 0


def test_keys_rotate_under_load_and_the_old_one_can_go(
    scenario: Scenario, open_another: Open, old: str, new: str
) -> None:
    """Every refresh brings a new refresh token and ends the old one: a lost one would be seen."""
    users = [f"user-{number}" for number in range(8)]
    for user_id in users:
        scenario.connect(user_id, kind="light")
    scenario.simulator.add_fault(RotateRefreshToken())
    before = open_another(**{KEYS: f"{old},{new}"})
    after = open_another(**{KEYS: f"{new},{old}"})
    stop = threading.Event()
    failed: list[str] = []
    synced: dict[str, int] = {}

    def work(name: str, worker: Scenario, mine: list[str], until: threading.Event) -> None:
        while not until.is_set():
            for user_id in mine:
                scenario.simulator.expire_access_tokens(user_id)
            outcomes = worker.sync(*mine, steps=PLAYS)
            failed.extend(
                f"{name}: {outcome.error_code}" for outcome in outcomes if outcome.failures
            )
            synced[name] = synced.get(name, 0) + 1

    restarted = threading.Event()
    threads = [
        threading.Thread(target=work, args=("before", before, users[:4], restarted)),
        threading.Thread(target=work, args=("after", after, users[4:], stop)),
    ]
    for thread in threads:
        thread.start()
    resealed = 0
    try:
        # Back and forth, so that a row is sealed anew many times in the middle of refreshes.
        while min(synced.get("before", 0), synced.get("after", 0)) < 8 and not failed:
            for version in (after, before):
                rotation = rotate(version.pipeline.engine, version.pipeline.keyring, sleep=_never)
                resealed += rotation.resealed
        restarted.set()
        threads[0].join()
        # Everybody seals with the new key now; syncs go on.
        rotate(after.pipeline.engine, after.pipeline.keyring)
        assert tokens_by_key(after.pipeline.engine) == {new.partition(":")[0]: len(users)}
    finally:
        restarted.set()
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert resealed > len(users)
    only_new = open_another(**{KEYS: new})
    scenario.simulator.expire_access_tokens()
    only_new.sync_well(*users, steps=PLAYS)


def _never(seconds: float) -> None:
    """No pause between rounds."""
