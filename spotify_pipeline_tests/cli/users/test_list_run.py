"""`users list --run`: the names behind the numbers that a run over many users reports."""

import json

import pytest
from sqlalchemy import Engine, text

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline_tests.cli.conftest import Run, only_line

RUN = "00000000-0000-0000-0000-00000000000a"
OUTCOMES = {
    "anna": ("synced", None, 7),
    "ben": ("failed", "RECONNECT", 0),
    "cleo": ("skipped", None, 0),
    "dora": (None, None, None),
}


@pytest.fixture
def noted(run: Run, engine: Engine) -> None:
    """Four users in a run, and one who is in none."""
    for user_id in (*OUTCOMES, "emil"):
        run("users", "add", user_id)
    with engine.begin() as conn:
        for user_id, (outcome, code, new_plays) in OUTCOMES.items():
            conn.execute(
                text(
                    "INSERT INTO spotify_pipeline.sync_run_users"
                    " (run_id, user_id, outcome, error_code, new_plays) VALUES (:r, :u, :o, :c, :n)"
                ),
                {"r": RUN, "u": user_id, "o": outcome, "c": code, "n": new_plays},
            )


@pytest.mark.usefixtures("noted")
def test_each_user_of_a_run_is_listed_with_outcome_code_and_what_to_do(run: Run) -> None:
    lines = run("users", "list", "--run", RUN).stdout.splitlines()
    assert lines[-1] == "4 users."
    (ben,) = [line for line in lines if line.startswith("ben")]
    assert "failed" in ben
    assert WHAT_TO_DO[ErrorCode.RECONNECT] in ben
    (dora,) = [line for line in lines if line.startswith("dora")]
    assert "Sync again" in dora
    assert not any("emil" in line for line in lines)


@pytest.mark.usefixtures("noted")
def test_failed_users_of_a_run_are_listed_in_json(run: Run) -> None:
    rows = json.loads(run("users", "list", "--run", RUN, "--failed", "--json").stdout)
    assert [(row["user_id"], row["outcome"], row["error_code"]) for row in rows] == [
        ("ben", "failed", "RECONNECT"),
        ("dora", None, None),
    ]
    assert rows[0]["what_to_do"] == WHAT_TO_DO[ErrorCode.RECONNECT]


def test_an_unknown_run_is_wrong_usage(run: Run, database: object) -> None:
    result = run("users", "list", "--run", RUN)
    assert result.exit_code == 2
    assert RUN in only_line(result)
