"""Terminal output: a progress bar on a terminal, lines in a pipe, colours, keys, the simulator."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from spotify_pipeline import terminal
from spotify_pipeline.domain.sealing import Keyring
from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.storage import tables as t
from spotify_pipeline.terminal import count, print_json, print_json_list, print_table, printable
from spotify_pipeline_tests.cli.conftest import COMMAND, only_line

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")
# 14 letters wide and 28 characters long.
ACCENTS = "e\u0301" * 14
COLOUR_OR_WEIGHT = re.compile(r"\x1b\[[0-9;]*m")


def test_a_long_command_shows_a_bar_on_a_terminal_and_lines_elsewhere(run, on_a_terminal):
    run("users", "add", "mira")
    shown = on_a_terminal("rebuild")
    assert "1/1" in shown
    assert COLOUR.search(shown)
    in_a_pipe = run("rebuild")
    assert in_a_pipe.stderr.startswith("Rebuilding: 1 to do\n")
    assert "\x1b" not in in_a_pipe.output


def test_no_color_is_respected(run, on_a_terminal):
    run("users", "add", "mira")
    assert not COLOUR.search(on_a_terminal("rebuild", NO_COLOR="1"))


def test_a_table_in_a_pipe_has_one_line_per_row(run, environ):
    environ.setenv("COLUMNS", "40")
    user_id = "u" * 255
    run("users", "add", user_id, "--display-name", "n " * 120 + "end")
    _, _, line, _ = run("users", "list").stdout.splitlines()
    assert line.startswith(user_id)
    assert "n " * 120 + "end" in line
    assert line.endswith(" –")


def test_a_table_too_wide_for_the_terminal_is_printed_row_by_row(run, on_a_terminal):
    run("users", "add", "mira", "--timezone", "America/Argentina/Buenos_Aires")
    rows = [line.split()[:1] for line in on_a_terminal("users", "list", COLUMNS="200").splitlines()]
    assert ["mira"] in rows
    for columns in ("40", "80"):
        shown = on_a_terminal("users", "list", COLUMNS=columns)
        assert "America/Argentina/Buenos_Aires" in shown
        assert max(map(len, COLOUR_OR_WEIGHT.sub("", shown).splitlines())) <= 50


def test_the_last_column_is_folded_between_words(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    print_table(("who", "what"), [("雨", "one two three four"), ("b", ""), ("c", ACCENTS)])
    assert COLOUR_OR_WEIGHT.sub("", capsys.readouterr().out).splitlines() == [
        "who   what",
        "─" * 20,
        "雨    one two three",
        "      four",
        "b",
        f"c     {ACCENTS}",
    ]


def test_a_table_of_many_rows_is_laid_out_by_the_first_and_cuts_no_cell(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "BATCH", 2)
    rows = iter([("a", "1"), ("雨", "2"), ("wider", "3"), ("b", "4"), ("c", "")])
    assert print_table(("x", "y"), rows) == 5
    assert capsys.readouterr().out.splitlines() == [
        "x    y",
        "─" * 6,
        "a    1",
        "雨   2",
        "wider   3",
        "b    4",
        "c",
    ]


def test_json_is_the_same_for_a_program_and_has_nothing_that_steers_a_terminal(capsys):
    odd = "\x1b\x7f\x9b\u202e\ud800\ufffe\ufdd0\U0001fffe"
    print_json({"name": [odd]})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"name": [odd]}
    assert not set(odd) & set(shown)


@pytest.mark.parametrize("items", [[], [1], [{"a\u2028": [None, {}]}, "b", datetime.now(UTC), []]])
def test_a_list_printed_item_by_item_is_the_json_of_the_list(capsys, monkeypatch, items):
    monkeypatch.setattr(terminal, "BATCH", 2)
    print_json(items)
    whole = capsys.readouterr().out
    print_json_list(iter(items))
    assert capsys.readouterr().out == whole


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ayọ̀ 🎧", "Ayọ̀ 🎧"),
        ("a\x1b[2Jb\r\n\x9b", "a\ufffd[2Jb\ufffd\ufffd\ufffd"),
        ("\ud800\ufffe\ufdd0\U0001fffe", "\ufffd" * 4),
        (None, ""),
    ],
)
def test_names_are_shown_as_they_are_but_for_control_characters(text, shown):
    assert printable(text) == shown


def test_no_output_lets_a_name_steer_the_terminal(run):
    hostile = "\x1b[2J\x9b2J\x85\x7f\u202eevil\u2066\u2029\r"
    name = f"Mira{hostile}"
    run("users", "add", "mira", "--display-name", name)
    outputs = [
        run("users", "list"),
        run("users", "list", "--json"),
        run("users", "show", "mira"),
        run("users", "show", "mira", "--json"),
        run("users", "show", f"nobody{hostile}"),
        run("users", "set", "mira", "--timezone", f"Nowhere{hostile}"),
        run("users", "list", "--check", f"none{hostile}"),
        run("sync", f"nobody{hostile}"),
        run(f"none{hostile}"),
    ]
    for result in outputs:
        assert set(result.output).isdisjoint(set(hostile) - set("[2Jevil")), result.output
    # JSON output for programs.
    (user,) = json.loads(outputs[1].stdout)
    assert user["display_name"] == name


def test_counts_of_one_use_the_singular():
    assert [count(number, "user") for number in (0, 1, 2000)] == [
        "0 users",
        "1 user",
        "2,000 users",
    ]


def test_a_new_key_is_alone_on_stdout_and_works_as_it_is(run):
    first, second = run("keys", "new"), run("keys", "new")
    assert first.exit_code == 0
    assert first.stdout != second.stdout
    keyring = Keyring.parse(first.stdout)
    assert keyring.current_id in first.stderr
    assert "SPOTIFY_PIPELINE_TOKEN_KEYS" in first.stderr
    assert first.stdout.strip().partition(":")[2] not in first.stderr


def test_the_simulator_prints_lines_that_work_when_pasted_and_ends_with_ctrl_c(
    environ, engine, tmp_path
):
    program = subprocess.Popen(
        [*COMMAND, "simulator", "--port", "0", "--listeners", "2", "--seed", "7"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        lines: list[str] = []
        while sum("users add" in line for line in lines) < 2:
            lines.append(program.stdout.readline())
            assert lines[-1], lines
        (tmp_path / "spotify-pipeline").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        Path(tmp_path / "spotify-pipeline").chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        subprocess.run(
            ["bash", "-e", "-c", "".join(lines)], env={**os.environ, "PATH": path}, check=True
        )
        (url,) = re.findall("SPOTIFY_API_URL=(.*)", "".join(lines))
        Simulator(url)  # it answers, so its signal handlers are installed
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=30)
    finally:
        program.kill()
    assert (program.returncode, errors) == (0, "")
    with engine.connect() as conn:
        rows = conn.execute(select(t.users.c.user_id, t.users.c.connection)).all()
    assert sorted(map(tuple, rows)) == [("kenji", "connected"), ("mira", "connected")]


def test_a_port_that_is_taken_exits_2(run, simulator):
    result = run("simulator", "--port", simulator.url.rpartition(":")[2])
    assert result.exit_code == 2
    assert "choose another with --port" in only_line(result)
