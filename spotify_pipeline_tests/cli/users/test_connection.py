"""The life of a connection as the operator steers it: disconnect, reset, connect again."""

import json

import pytest
from sqlalchemy import func, select, text

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres import locks
from spotify_pipeline.storage.postgres.engine import SESSION
from spotify_pipeline_tests.cli.conftest import only_line

TOKEN = "AQ" + "canary-refresh-token" * 5


@pytest.fixture
def mira(run, engine):
    """A connected user with a day that is known."""
    run("users", "add", "mira", "--timezone", "Europe/Oslo", "--refresh-token-stdin", stdin=TOKEN)
    with engine.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO spotify_pipeline.daily_listening (user_id, date, minutes, listened_ms,"
                " plays, unique_tracks, unique_artists, completeness)"
                " VALUES ('mira', '2026-01-01', 1, 60000, 1, 1, 1, 'complete')"
            )
        )


@pytest.fixture
def sql(engine):
    """Runs a statement; returns the first row if there is one."""

    def sql(statement):
        with engine.begin() as conn:
            result = conn.execute(text(statement))
            return result.first() if result.returns_rows else None

    return sql


def connection(engine):
    with engine.connect() as conn:
        return conn.scalar(select(t.users.c.connection))


def kept(engine):
    """Tokens and days that are stored."""
    with engine.connect() as conn:
        tables = (t.user_tokens, t.daily_listening)
        return [conn.scalar(select(func.count()).select_from(table)) for table in tables]


def test_disconnecting_deletes_the_token_and_keeps_the_data(run, engine, sql, mira):
    assert kept(engine) == [1, 1]
    for _ in range(2):
        result = run("users", "disconnect", "mira")
        assert result.exit_code == 0, result.output
        assert "the data is kept" in result.stdout
        assert "spotify-pipeline connect mira" in result.stdout
        assert connection(engine) == "disconnected"
        assert kept(engine) == [0, 1]
    sql("UPDATE spotify_pipeline.sync_state SET next_due_at = now()")
    (listed,) = json.loads(run("users", "list", "--json").stdout)
    assert listed["next_due_at"] is None


@pytest.mark.parametrize("command", ["disconnect", "reset"])
def test_an_unknown_user_exits_2(run, command):
    result = run("users", command, "nobody")
    assert result.exit_code == 2
    assert only_line(result).startswith("Error: There is no user nobody.")


@pytest.mark.parametrize("state", ["needs_reauth", "suspect", "connected"])
def test_a_reset_lets_the_token_be_tried_again(run, engine, sql, mira, state):
    sql(f"UPDATE spotify_pipeline.users SET connection = '{state}'")
    sql(
        "UPDATE spotify_pipeline.sync_state SET consecutive_failures = 4, next_due_at = now() +"
        " interval '1 hour', last_error_code = 'RECONNECT', last_error_message = 'x'"
    )
    sql(
        "UPDATE spotify_pipeline.user_tokens"
        " SET last_error_code = 'RECONNECT', last_refreshed_at = now()"
    )
    result = run("users", "reset", "mira")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "Reset mira: connected.",
        "Next: spotify-pipeline sync mira",
    ]
    assert connection(engine) == "connected"
    assert kept(engine) == [1, 1]
    assert sql(
        "SELECT consecutive_failures, next_due_at, last_error_code, last_error_message"
        " FROM spotify_pipeline.sync_state"
    ) == (0, None, None, None)
    assert sql("SELECT last_error_code, last_refreshed_at FROM spotify_pipeline.user_tokens") == (
        None,
        None,
    )
    assert sql("SELECT state FROM spotify_pipeline.sync_status") == ("never",)


@pytest.mark.parametrize(
    ("age", "becomes", "next_step"),
    [
        ("155 days", "expiring", "spotify-pipeline sync mira"),
        ("200 days", "needs_reauth", "spotify-pipeline connect mira"),
    ],
)
def test_a_reset_keeps_the_authorization_date_of_the_token(
    run, engine, sql, mira, age, becomes, next_step
):
    sql(f"UPDATE spotify_pipeline.user_tokens SET authorized_at = now() - interval '{age}'")
    sql("UPDATE spotify_pipeline.users SET connection = 'needs_reauth'")
    result = run("users", "reset", "mira")
    assert result.exit_code == (1 if becomes == "needs_reauth" else 0)
    assert next_step in result.output
    assert connection(engine) == becomes


def test_a_user_without_a_token_has_nothing_to_reset(run, engine, mira):
    run("users", "disconnect", "mira")
    result = run("users", "reset", "mira")
    assert (result.exit_code, result.stdout) == (1, "")
    assert only_line(result) == (
        "Error: mira has no token, so there is nothing to try. Connect again: "
        "spotify-pipeline connect mira"
    )


def test_adding_a_token_after_a_failure_clears_it_and_keeps_the_data(run, engine, sql, mira):
    sql("UPDATE spotify_pipeline.users SET connection = 'needs_reauth'")
    sql(
        "UPDATE spotify_pipeline.sync_state"
        " SET consecutive_failures = 4, last_error_code = 'RECONNECT'"
    )
    run("users", "add", "mira", "--refresh-token-stdin", stdin=TOKEN + "2")
    assert connection(engine) == "connected"
    assert kept(engine) == [1, 1]
    assert sql("SELECT consecutive_failures, last_error_code FROM spotify_pipeline.sync_state") == (
        0,
        None,
    )


@pytest.mark.parametrize(
    "command",
    ["reset mira", "disconnect mira", "forget mira --yes", "set mira --timezone Asia/Tokyo"],
)
def test_no_command_waits_forever_for_an_uncommitted_app_transaction(
    run, engine, mira, monkeypatch, command
):
    monkeypatch.setitem(SESSION, "lock_timeout", "200ms")
    monkeypatch.setattr(locks, "WAIT", "100ms")
    with engine.connect() as app:
        app.execute(text("SELECT spotify_pipeline.disconnect_user('mira')"))
        result = run("users", *command.split())
        app.rollback()
    assert result.exit_code == 1, result.output
    assert "another session keeps rows locked" in only_line(result)
    assert connection(engine) == "connected"
