"""The code locations that `serve` hands to Dagster's processes."""

import socket
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from spotify_pipeline.cli.operate import serve
from spotify_pipeline.cli.program import program
from spotify_pipeline_tests.cli.conftest import only_line

OURS = {"host": "code", "port": 4266, "location_name": "spotify_pipeline"}


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Arguments of the processes that would replace this one."""
    monkeypatch.setenv("SPOTIFY_PIPELINE_HOME", str(tmp_path))
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(serve, "_become", lambda _, *command: commands.append(command))
    return commands


@pytest.mark.parametrize("process", ["daemon", "webserver"])
def test_other_code_locations_are_served_beside_ours(
    process: str, started: list[tuple[str, ...]]
) -> None:
    command = ["serve", process, "--code-server", "code:4266", "--location", "reports=10.0.0.7:1"]
    assert CliRunner().invoke(program, command).exit_code == 0
    (arguments,) = started
    workspace = yaml.safe_load(Path(arguments[-1]).read_text())
    theirs = {"host": "10.0.0.7", "port": 1, "location_name": "reports"}
    assert workspace == {"load_from": [{"grpc_server": OURS}, {"grpc_server": theirs}]}


@pytest.mark.parametrize(
    ("option", "value"),
    [("--code-server", "4266"), ("--location", "10.0.0.7:1"), ("--location", "a=it's:1")],
)
def test_a_location_that_cannot_be_read_is_refused(
    option: str, value: str, started: list[tuple[str, ...]]
) -> None:
    result = CliRunner().invoke(program, ["serve", "daemon", option, value])
    assert result.exit_code == 2
    assert option in result.output
    assert started == []


@pytest.mark.parametrize("command", [["web"], ["serve", "webserver"], ["serve", "code-server"]])
def test_a_port_that_is_taken_exits_2_and_says_so(run, environ, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run(*command, "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "choose another --port" in only_line(result)
