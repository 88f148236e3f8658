"""A whole world in which secrets are handled, echoed, logged and died of; and all that it says."""

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
from spotify_pipeline.simulator.process import running_simulator
from spotify_pipeline.storage.postgres.database import dagster_url, leave_database, pipeline_url
from spotify_pipeline.storage.users.connection import store_connection
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline
from spotify_pipeline_tests.canaries import Canaries
from spotify_pipeline_tests.cli.browser_user import as_person, free_port

SECONDS = 120
TALKATIVE = Path(__file__).parent / "talkative"
COMMAND = [sys.executable, "-m", "spotify_pipeline.cli.main"]
# Mira's tokens rotate, and her sync succeeds; Kenji connects in the browser.
ASKING = ("mira", "crash", "echo", "denied")
PEOPLE = (*ASKING, "kenji")
EVENTS = """{ runsOrError { ... on Runs { results {
    runId status tags { key value } runConfigYaml
    eventConnection { events { __typename
      ... on MessageEvent { message level }
      ... on ErrorEvent { error { message stack errorChain { error { message stack } } } }
    } } } } } }"""


@dataclass
class World:
    """What is left of it, and what was said."""

    home: Path
    canaries: Canaries
    calls: list[tuple[str, int]] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    in_rows: dict[str, set[str]] = field(default_factory=dict)


def live(home: Path) -> World:
    """A whole life in this home; when it returns all of its processes have ended."""
    world = World(home, Canaries())
    with pytest.MonkeyPatch.context() as patch:
        _environment(patch, world)
        with running_simulator(seed=secrets.randbelow(2**40)) as simulator:
            for name, value in simulator.environment.items():
                patch.setenv(name, value)
            alert_key = secrets.token_hex(16)
            world.canaries.add("alert address", alert_key)
            patch.setenv("SPOTIFY_PIPELINE_ALERT_URL", f"{simulator.url}/alerts/{alert_key}")
            patch.setenv("SPOTIFY_PIPELINE_REVALIDATE_URL", f"{simulator.url}/hook")
            patch.setenv("PYTHONPATH", str(TALKATIVE))
            _live(world, simulator)
    return world


def _environment(patch: pytest.MonkeyPatch, world: World) -> None:
    for name in variables():
        patch.delenv(name, raising=False)
    patch.setenv("SPOTIFY_PIPELINE_HOME", str(world.home))
    patch.setenv("DAGSTER_HOME", os.environ.get("DAGSTER_HOME", ""))
    hook_secret = secrets.token_hex(16)
    world.canaries.add("revalidate secret", hook_secret)
    patch.setenv("SPOTIFY_PIPELINE_REVALIDATE_SECRET", hook_secret)


def _live(world: World, simulator: Simulator) -> None:
    settings = load_settings()
    try:
        with open_pipeline(settings) as pipeline:
            _introduce(pipeline, simulator)
            _note_secrets(world.canaries, pipeline, simulator)
            with _watching_command_lines(world), running_stack(settings, free_port()) as stack:
                programs = _start_programs(world)
                _ask(pipeline)
                _finish_programs(world, programs)
                _await_requests(pipeline, stack)
                world.said["graphql"] = _graphql(stack, EVENTS)
            # Also those that were replaced meanwhile.
            for number, token in enumerate(simulator.tokens()):
                world.canaries.add(f"token {number}", token)
            world.in_rows = world.canaries.found_in_rows(
                pipeline_url(settings), dagster_url(settings)
            )
            world.said["run"] = "".join(
                log.read_text() for log in world.home.glob("dagster/storage/*/compute_logs/*.err")
            )
            world.calls = [(call.endpoint, call.status) for call in simulator.calls()]
    finally:
        leave_database(settings)


def _introduce(pipeline: Pipeline, simulator: Simulator) -> None:
    since = (datetime.now(UTC) - timedelta(days=3)).date()
    for user_id in PEOPLE:
        info = simulator.add_listener(user_id, since=since, person="light")
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


def _note_secrets(canaries: Canaries, pipeline: Pipeline, simulator: Simulator) -> None:
    keyring = pipeline.keyring
    for key in keyring.keys.values():
        canaries.add("token key", base64.b64encode(bytes(key)).decode())
    canaries.add("database password", str(pipeline.engine.url.password))
    canaries.add("client secret", simulator.client_secret)


@contextlib.contextmanager
def _watching_command_lines(world: World) -> Iterator[None]:
    """Reads those of all processes of the machine, again and again: anybody can."""
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
        world.said["command lines"] = "\n".join(seen)


def _start_programs(world: World) -> "dict[str, subprocess.Popen[str]]":
    port = str(free_port())
    commands = {
        "connect": ("connect", "kenji", "--no-browser", "--no-sync", "--port", port),
        "sync": ("sync", "crash"),
        "doctor": ("doctor", "--json"),
        "list": ("users", "list", "--json"),
        "show": ("users", "show", "echo", "--json"),
        "export": ("users", "export", "mira", "--out", str(world.home / "mira.zip")),
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


def _finish_programs(world: World, programs: "dict[str, subprocess.Popen[str]]") -> None:
    connect = programs.pop("connect")
    invitation = ""
    assert connect.stdout is not None
    while not (found := re.search(r"^\s+(http\S+/authorize\S+)$", invitation, re.MULTILINE)):
        line = connect.stdout.readline()
        assert line, invitation
        invitation += line
    page = as_person("kenji")(found[1])
    for address in page.addresses:
        if code := re.search(r"[?&]code=([^&]+)", address):
            world.canaries.add("authorization code", code[1])
    world.said["page"] = page.text
    world.said["connect"] = invitation + connect.communicate(timeout=SECONDS)[0]
    for name, program in programs.items():
        world.said[name] = program.communicate(timeout=SECONDS)[0]


def _ask(pipeline: Pipeline) -> None:
    with pipeline.engine.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO spotify_pipeline.sync_requests (user_id)"
                " SELECT unnest(CAST(:u AS text[]))"
            ),
            {"u": list(ASKING)},
        )


def _await_requests(pipeline: Pipeline, stack: Stack) -> None:
    """Every request was tried once, and no run is going on."""
    untried = text("SELECT count(*) FROM spotify_pipeline.sync_requests WHERE attempts = 0")
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
