"""`python -m spotify_pipeline.simulator`: help, options and error messages."""

import datetime as dt
import json
import subprocess
import sys

import pytest

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline_tests.simulator.conftest import ListenerClient

COMMAND = [sys.executable, "-m", "spotify_pipeline.simulator"]


def test_the_simulator_prints_the_environment_and_every_refresh_token() -> None:
    command = [*COMMAND, "--port", "0", "--listeners", "2", "--seed", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            while not lines or "Ctrl-C" not in lines[-1]:
                lines.append(next(process.stdout))
            exported = dict(
                line.removeprefix("export ").strip().split("=", 1)
                for line in lines
                if line.startswith("export ")
            )
            simulator = Simulator(exported["SPOTIFY_API_URL"])
            assert exported == simulator.environment
            printed = [line.strip().split("\t") for line in lines if "\t" in line]
            assert printed == [
                [listener.user_id, listener.timezone, listener.refresh_token]
                for listener in simulator.listeners()
            ]
        finally:
            process.terminate()


def test_faults_can_be_set_at_the_start() -> None:
    latency = json.dumps({"kind": "latency", "endpoint": "me", "options": {"seconds": 0.01}})
    command = [*COMMAND, "--child", "--port", "0", "--listeners", "1", "--calls-per-30s", "1"]
    command += ["--fault", "odd_text", "--fault", latency, "--longest-delay", "7200"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        simulator = Simulator(json.loads(process.stdout.readline())["url"])
        assert [fault["kind"] for fault in simulator.faults()] == ["odd_text", "latency"]
        listener = ListenerClient(simulator, simulator.listeners()[0])
        assert listener.get("/v1/me").status_code == 200
        assert listener.get("/v1/me").status_code == 429
        now = simulator.now()
        plays = simulator.ledger(listener.user_id, now - dt.timedelta(days=7))
        assert max(play.published_at - play.played_at for play in plays) > dt.timedelta(minutes=9)
        assert process.stdin is not None
        process.stdin.close()  # and the simulator ends with it
        assert process.wait(20) == 0


def test_every_listener_can_have_every_oddity_from_the_start() -> None:
    command = [*COMMAND, "--child", "--port", "0", "--listeners", "2", "--oddities", "everything"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        simulator = Simulator(json.loads(process.stdout.readline())["url"])
        for listener in simulator.listeners():
            assert any(play.missing for play in simulator.ledger(listener.user_id))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--fault=earthquake", "fault earthquake is none of"),
        ('--fault={"knid": "latency"}', "knid"),
        ('--oddities={"vanishing": 2}', "vanishing must be between 0 and 1"),
        ('--oddities={"colour": 1}', "colour"),
        ("--now=2026-01-01T00:00:00", "--now needs an offset"),
    ],
)
def test_a_wrong_argument_ends_with_a_sentence(argument: str, sentence: str) -> None:
    done = subprocess.run([*COMMAND, argument], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
