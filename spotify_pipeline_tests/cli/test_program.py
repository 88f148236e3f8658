"""The program itself: help, start-up, exit codes, interruptions."""

import os
import resource
import shlex
import signal
import socket
import subprocess
import sys

import click
import pytest

from spotify_pipeline.cli.local.dev import alone
from spotify_pipeline.cli.program import COMMANDS, program
from spotify_pipeline_tests.cli.conftest import COMMAND, only_line

HEAVY = ("dagster", "pandas", "requests", "sqlalchemy", "pydantic", "rich", "uvicorn")


def commands(group: click.Group = program, path: tuple[str, ...] = ()):
    """Every command below the group that does something, with its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_help_lists_all_commands_without_importing_what_they_need():
    asks = (
        "import sys; from spotify_pipeline.cli.main import main; sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "except SystemExit: print([name for name in sys.modules if name in " + repr(HEAVY) + "])"
    )
    said = subprocess.run(
        [sys.executable, "-c", asks], capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert f"\n  {name} " in said


def test_dev_imports_neither_dagster_nor_a_driver_while_it_waits():
    asks = (
        "import sys, spotify_pipeline.cli.local.dev\n"
        "print({'dagster', 'pandas', 'sqlalchemy', 'psycopg'} & sys.modules.keys())"
    )
    said = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


def test_help_takes_at_most_a_third_of_a_second_of_cpu():
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3


def test_a_command_leaves_nothing_for_the_garbage_collector_to_scan_at_exit():
    code = (
        "import atexit, gc, sys; from spotify_pipeline.cli.main import main\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10 * len(gc.get_objects())))\n"
        "sys.argv[1:] = ['--help']; main()"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "True"


def test_every_command_has_help_with_an_example():
    for path, command in commands():
        text = command.get_help(click.Context(command, info_name=path[-1]))
        assert "Example" in text, path
        assert f"spotify-pipeline {' '.join(path)}" in text, path


def test_the_list_of_commands_says_what_the_commands_say():
    context = click.Context(program)
    for name, (_, about) in COMMANDS.items():
        command = program.get_command(context, name)
        assert command.get_short_help_str(limit=200).rstrip(".") == about.rstrip(".")


def test_help_lists_every_command_in_full(run):
    for group in ("users", "keys"):
        assert "..." not in run(group, "--help").stdout.partition("Commands:")[2]


def test_the_version_is_that_of_the_package(run):
    assert run("--version").stdout.startswith("spotify-pipeline, version 0.")


@pytest.mark.parametrize("command", ["dev", "demo"])
def test_a_second_copy_on_the_same_home_is_refused_and_so_is_a_home_that_cannot_be(
    run, environ, tmp_path, command
):
    with alone(tmp_path / "home"):
        second = run(command)
    assert second.exit_code == 2
    assert "is running in" in only_line(second)
    environ.setenv("SPOTIFY_PIPELINE_HOME", "/dev/null/home")
    nowhere = run(command)
    assert nowhere.exit_code == 2
    assert "set SPOTIFY_PIPELINE_HOME to a directory of your own" in only_line(nowhere)


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("users", "add"), ("sync",), ("sync", "mira", "--all"), ("users", "set", "x")],
)
def test_wrong_usage_exits_2_and_says_how_to_get_help(process, arguments):
    result = process(*arguments)
    assert result.returncode == 2
    assert "Error: " in result.stderr
    assert "--help" in result.stderr
    assert result.stdout == ""


def test_closed_standard_streams_are_handled(environ, database):
    add = f"{shlex.join(COMMAND)} users add mira"
    for closed, code in (("--refresh-token-stdin <&-", 2), (">&-", 0), ("<&- >&- 2>&-", 0)):
        ended = subprocess.run(
            ["bash", "-c", f"{add} {closed}"], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, "unexpected" in ended.stderr) == (code, False), closed


def test_a_closed_pipe_prints_no_error(environ):
    left = subprocess.run(
        ["bash", "-c", f"{shlex.join(COMMAND)} --help | head -c 1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert left.stderr == ""


def test_ctrl_c_ends_a_sync_that_waits_for_spotify_at_once_and_without_a_traceback(
    run, environ, dagster, database
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environ.setenv("SPOTIFY_API_URL", url)
        environ.setenv("SPOTIFY_ACCOUNTS_URL", url)
        assert run("users", "add", "mira", "--refresh-token-stdin", stdin="token").exit_code == 0
        program = subprocess.Popen(
            [*COMMAND, "sync", "mira"],
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            silent.accept()  # now it waits for the answer
            program.send_signal(signal.SIGINT)
            said, _ = program.communicate(timeout=30)
        finally:
            program.kill()
    assert program.returncode == 130
    assert said.splitlines()[-1] == "Stopped."
    assert "Traceback" not in said
