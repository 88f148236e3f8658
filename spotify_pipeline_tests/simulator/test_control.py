"""The control API: a simulator's clock, listeners and records can be changed and read."""

import datetime as dt
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from spotify_pipeline.simulator.control import Simulator, SimulatorError
from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline_tests.simulator.conftest import NOON, ListenerClient

AddListener = Callable[..., ListenerClient]
DAY = dt.timedelta(days=1)


def test_simulated_time_stands_still_until_it_is_moved(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    first = listener.recently(limit=50).json()
    assert listener.recently(limit=50).json() == first
    assert simulator.now() == NOON
    assert simulator.advance(DAY) == NOON + DAY
    later = listener.recently(limit=50).json()
    assert later["cursors"]["after"] > first["cursors"]["after"]
    simulator.set_clock(NOON)
    assert listener.recently(limit=50).json() == first


def test_simulated_real_time_advances_by_itself(simulator: Simulator) -> None:
    simulator.set_clock(None)
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    assert before < simulator.now() <= dt.datetime.now(dt.UTC)


def test_moving_the_world_does_not_let_access_tokens_expire(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    assert listener.get("/v1/me").status_code == 200
    simulator.advance(DAY)
    assert listener.get("/v1/me").status_code == 200


def test_the_ledger_is_what_was_played_and_knows_what_was_served(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    served = {}
    for hour in range(0, 24, 6):
        simulator.set_clock(NOON + dt.timedelta(hours=hour))
        for item in listener.recently(limit=50).json()["items"]:
            served[item["played_at"]] = item["track"]
    lines = simulator.ledger(listener.user_id, NOON - 7 * DAY)
    by_time = {
        line.played_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"): line
        for line in lines
    }
    assert {at for at, line in by_time.items() if line.served} == set(served)
    for played_at, track in served.items():
        assert by_time[played_at].track_id == track["id"]
        assert by_time[played_at].track_name == track["name"]
        assert by_time[played_at].duration_ms == track["duration_ms"]
        assert by_time[played_at].artist_id == track["artists"][0]["id"]
        assert by_time[played_at].artist_name == track["artists"][0]["name"]
    assert sum(line.visible for line in lines) == 50
    assert all(line.published for line in lines)
    assert any(not line.served for line in lines)


def test_the_ledger_lists_no_future_plays(simulator: Simulator, add_listener: AddListener) -> None:
    lines = simulator.ledger(add_listener().user_id, NOON - DAY, NOON + DAY)
    assert lines
    assert max(line.played_at for line in lines) <= NOON


def test_every_call_is_in_the_log(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener()
    listener.recently(limit=5)
    listener.get("/v1/me/top/artists")
    requests.get(f"{simulator.url}/v1/me", timeout=10)
    logged = [(call.endpoint, call.user_id, call.status) for call in simulator.calls()]
    assert logged == [
        ("token", listener.user_id, 200),
        ("recently_played", listener.user_id, 200),
        ("top_artists", listener.user_id, 200),
        ("me", None, 401),
    ]
    instants = [call.at for call in simulator.calls()]
    assert instants == sorted(instants)
    simulator.forget_calls()
    assert simulator.calls() == []


def test_a_listener_can_have_any_id(add_listener: AddListener) -> None:
    for user_id in ("a/b?c=d&e#f", "мира 🎧", "x" * 255):
        listener = add_listener(user_id)
        assert listener.get("/v1/me").json()["id"] == user_id
        assert listener.simulator.ledger(user_id)


@pytest.mark.parametrize(
    "wrong", [{"timezone": "Mars/Base"}, {"kind": "robot"}, {"shape": "round"}]
)
def test_a_wrong_listener_is_refused_with_a_sentence(
    simulator: Simulator, wrong: dict[str, str]
) -> None:
    with pytest.raises(SimulatorError, match=next(iter(wrong.values()))):
        simulator.add_listener("wrong", **wrong)  # type: ignore[arg-type]


def test_a_simulator_started_again_with_the_same_seed_knows_the_stored_tokens() -> None:
    with running_simulator(listeners=2, seed=9, now=NOON) as first:
        before = first.listeners()
        environment = first.environment
    with running_simulator(listeners=2, seed=9, now=NOON) as second:
        assert second.listeners() == before
        assert second.client_id == environment["SPOTIFY_CLIENT_ID"]
        assert second.client_secret == environment["SPOTIFY_CLIENT_SECRET"]
        assert ListenerClient(second, before[0]).recently().status_code == 200
    with running_simulator(listeners=2, seed=10, now=NOON) as other:
        assert other.listeners()[0].refresh_token != before[0].refresh_token


def test_a_port_that_is_taken_is_reported_at_once(simulator: Simulator) -> None:
    port = int(simulator.url.rsplit(":", 1)[1])
    with pytest.raises(SimulatorError, match="in use"), running_simulator(port=port):
        pass


def test_the_simulator_ends_when_its_parent_is_killed() -> None:
    script = (
        "import os, signal\n"
        "from spotify_pipeline.simulator.server import running_simulator\n"
        "with running_simulator() as simulator:\n"
        "    print(simulator.url, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=30)
    deadline = time.monotonic() + 20
    while answers(f"{done.stdout.decode().strip()}/_sim/now"):
        assert time.monotonic() < deadline


def answers(url: str) -> bool:
    try:
        return requests.post(url, json={}, timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil@127.0.0.1:3977"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "image"},
        {"Content-Type": "text/plain"},
    ],
)
def test_the_control_interface_refuses_pages_of_other_origins(
    simulator: Simulator, headers: dict[str, str]
) -> None:
    answer = requests.post(
        f"{simulator.url}/_sim/advance",
        data='{"step": 60}',
        headers={"Content-Type": "application/json", **headers},
        timeout=20,
    )
    assert answer.status_code == 403
    assert simulator.now() == NOON
    if "Content-Type" not in headers:
        url = f"{simulator.url}/_sim/tokens"
        assert requests.get(url, headers=headers, timeout=20).status_code == 403
        assert requests.post(url, json={}, headers=headers, timeout=20).status_code == 403


def test_a_body_that_is_nested_too_deep_is_refused(simulator: Simulator) -> None:
    answer = requests.post(
        f"{simulator.url}/_sim/advance",
        data="[" * 100_000,
        headers={"Content-Type": "application/json"},
        timeout=20,
    )
    assert answer.status_code == 400


def test_forgetting_calls_includes_calls_in_flight(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    listener.get("/v1/me")  # gets an access token
    simulator.forget_calls()
    simulator.add_fault(Latency(1), endpoint="recently_played")
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(listener.recently)
        while not simulator.faults()[0]["hits"]:
            time.sleep(0.01)
        simulator.forget_calls()
        answering.result()
    assert [call.endpoint for call in simulator.calls()] == []
