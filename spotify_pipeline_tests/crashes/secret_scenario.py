"""Runs the pipeline while secrets are used, echoed, logged and raised; records all outputs."""

import base64
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from sqlalchemy import text

from spotify_pipeline.app import register_user
from spotify_pipeline.cli.local.dagster_processes import Stack, running_stack
from spotify_pipeline.settings import load_settings, variables
from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.faults.edits import RotateRefreshToken
from spotify_pipeline.simulator.faults.refusals import AccessTokenExpired, Echo
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage.postgres.database import dagster_url, leave_database, pipeline_url
from spotify_pipeline.storage.users.connection import store_connection
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline
from spotify_pipeline_tests.canaries import Canaries
from spotify_pipeline_tests.cli.browser_user import consent_as, free_port

SECONDS = 120
DEBUG_LOGGING = Path(__file__).parent / "debug_logging"
COMMAND = [sys.executable, "-m", "spotify_pipeline.cli.main"]
# Mira's tokens rotate, and her sync succeeds; Kenji connects in the browser.
REQUESTING_USERS = ("mira", "crash", "echo", "denied")
USERS = (*REQUESTING_USERS, "kenji")
EVENTS = """{ runsOrError { ... on Runs { results {
    runId status tags { key value } runConfigYaml
    eventConnection { events { __typename
      ... on MessageEvent { message level }
      ... on ErrorEvent { error { message stack errorChain { error { message stack } } } }
    } } } } } }"""


@dataclass
class SecretScenario:
    """The home, the secrets used in it, and every output of its processes."""

    home: Path
    canaries: Canaries
    calls: list[tuple[str, int]] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    in_rows: dict[str, set[str]] = field(default_factory=dict)


def run_secret_scenario(home: Path) -> SecretScenario:
    """Runs stack, commands, browser and syncs in this home; all processes have ended on return."""
    case = SecretScenario(home, Canaries())
    with pytest.MonkeyPatch.context() as patch:
        _environment(patch, case)
        with running_simulator(seed=secrets.randbelow(2**40)) as simulator:
            for name, value in simulator.environment.items():
                patch.setenv(name, value)
            alert_key = secrets.token_hex(16)
            case.canaries.add("alert address", alert_key)
            patch.setenv("SPOTIFY_PIPELINE_ALERT_URL", f"{simulator.url}/alerts/{alert_key}")
            patch.setenv("SPOTIFY_PIPELINE_REVALIDATE_URL", f"{simulator.url}/hook")
            patch.setenv("PYTHONPATH", str(DEBUG_LOGGING))
            _run(case, simulator)
    return case


def _environment(patch: pytest.MonkeyPatch, case: SecretScenario) -> None:
    for name in variables():
        patch.delenv(name, raising=False)
    patch.setenv("SPOTIFY_PIPELINE_HOME", str(case.home))
    patch.setenv("DAGSTER_HOME", os.environ.get("DAGSTER_HOME", ""))
    hook_secret = secrets.token_hex(16)
    case.canaries.add("revalidate secret", hook_secret)
    patch.setenv("SPOTIFY_PIPELINE_REVALIDATE_SECRET", hook_secret)


def _run(case: SecretScenario, simulator: Simulator) -> None:
    settings = load_settings()
    try:
        with open_pipeline(settings) as pipeline:
            _add_listeners(pipeline, simulator)
            _register_secrets(case.canaries, pipeline, simulator)
            with _recorded_command_lines(case), running_stack(settings, free_port()) as stack:
                programs = _start_programs(case)
                _request_syncs(pipeline)
                _finish_programs(case, programs)
                _await_requests(pipeline, stack)
                case.outputs["graphql"] = _graphql(stack, EVENTS)
            # Rotated tokens too.
            for number, token in enumerate(simulator.tokens()):
                case.canaries.add(f"token {number}", token)
            case.in_rows = case.canaries.found_in_rows(
                pipeline_url(settings), dagster_url(settings)
            )
            case.outputs["run"] = "".join(
                log.read_text() for log in case.home.glob("dagster/storage/*/compute_logs/*.err")
            )
            case.calls = [(call.endpoint, call.status) for call in simulator.calls()]
    finally:
        leave_database(settings)


def _add_listeners(pipeline: Pipeline, simulator: Simulator) -> None:
    since = (datetime.now(UTC) - timedelta(days=3)).date()
    for user_id in USERS:
        info = simulator.add_listener(user_id, since=since, kind="light")
        if user_id == "kenji":
            continue
        with pipeline.engine.begin() as conn:
            register_user(conn, user_id, "UTC", None)
            store_connection(
                conn,
                pipeline.keyring,
                user_id,
                info.refresh_token,
                client_id=simulator.client_id,
            )
    simulator.add_fault(RotateRefreshToken(), user_id="mira")
    simulator.add_fault(AccessTokenExpired(), endpoint="recently_played", user_id="mira", times=1)
    simulator.add_fault(Echo(401), endpoint="recently_played", user_id="echo")
    simulator.add_fault(Echo(403), endpoint="top_artists", user_id="echo")
    simulator.add_fault(Echo(502), endpoint="top_tracks", user_id="mira", times=1)
    simulator.add_fault(Echo(400), endpoint="token", user_id="denied")


def _register_secrets(canaries: Canaries, pipeline: Pipeline, simulator: Simulator) -> None:
    keyring = pipeline.keyring
    for key in keyring.keys.values():
        canaries.add("token key", base64.b64encode(bytes(key)).decode())
    canaries.add("database password", str(pipeline.engine.url.password))
    canaries.add("client secret", simulator.client_secret)


@contextlib.contextmanager
def _recorded_command_lines(case: SecretScenario) -> Iterator[None]:
    """Records the command lines of all processes: every local user can read them."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    seen.add("\0".join(process.cmdline()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        case.outputs["command lines"] = "\n".join(seen)


def _start_programs(case: SecretScenario) -> "dict[str, subprocess.Popen[str]]":
    port = str(free_port())
    commands = {
        "connect": ("connect", "kenji", "--no-browser", "--no-sync", "--port", port),
        "sync": ("sync", "crash"),
        "doctor": ("doctor", "--json"),
        "list": ("users", "list", "--json"),
        "show": ("users", "show", "echo", "--json"),
        "export": ("users", "export", "mira", "--out", str(case.home / "mira.zip")),
    }
    return {
        name: subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, arguments in commands.items()
    }


def _finish_programs(case: SecretScenario, programs: "dict[str, subprocess.Popen[str]]") -> None:
    connect = programs.pop("connect")
    output = ""
    assert connect.stdout is not None
    while not (found := re.search(r"^\s+(http\S+/authorize\S+)$", output, re.MULTILINE)):
        line = connect.stdout.readline()
        assert line, output
        output += line
    page = consent_as("kenji")(found[1])
    for address in page.addresses:
        if code := re.search(r"[?&]code=([^&]+)", address):
            case.canaries.add("authorization code", code[1])
    case.outputs["page"] = page.text
    case.outputs["connect"] = output + connect.communicate(timeout=SECONDS)[0]
    for name, program in programs.items():
        case.outputs[name] = program.communicate(timeout=SECONDS)[0]


def _request_syncs(pipeline: Pipeline) -> None:
    with pipeline.engine.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO spotify_pipeline.sync_requests (user_id)"
                " SELECT unnest(CAST(:u AS text[]))"
            ),
            {"u": list(REQUESTING_USERS)},
        )


def _await_requests(pipeline: Pipeline, stack: Stack) -> None:
    """Waits until every request was tried once and no run is in progress."""
    # Given to a run, it is queued until the run has begun; tried in vain, it has a pause.
    untried = text(
        "SELECT count(*) FROM spotify_pipeline.sync_requests"
        " WHERE status = 'queued' AND not_before IS NULL"
    )
    running = (
        "{ runsOrError(filter: {statuses: [QUEUED, STARTING, STARTED]}) { ... on Runs { count } } }"
    )

    def done() -> bool:
        with pipeline.engine.connect() as conn:
            if conn.execute(untried).scalar_one():
                return False
        return bool(json.loads(_graphql(stack, running))["data"]["runsOrError"]["count"] == 0)

    stack.wait(SECONDS, done, "every request")


def _graphql(stack: Stack, query: str) -> str:
    answer = requests.post(f"{stack.url}/graphql", json={"query": query}, timeout=60)
    body: dict[str, Any] = answer.json()
    assert "errors" not in body, body
    return json.dumps(body)
