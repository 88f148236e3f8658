"""Users are added, changed, listed and shown; tokens are sealed and never seen again."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

from spotify_pipeline.domain.sealing import Keyring
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.cli.conftest import TOKEN_KEY, only_line
from spotify_pipeline_tests.storage.rows import add_top

TOKEN = "AQ" + "canary-refresh-token" * 5


@pytest.fixture
def stored_token(engine):
    """Reads a user's sealed token with the key, as the pipeline would."""

    def stored(user_id):
        k = t.user_tokens
        with engine.connect() as conn:
            row = conn.execute(select(k).where(k.c.user_id == user_id)).one_or_none()
        if row is None:
            return None
        keyring = Keyring.parse(TOKEN_KEY)
        return keyring.open(row.key_id, row.sealed_refresh_token, user_id), row

    return stored


def listed(run, *more):
    result = run("users", "list", "--json", *more)
    assert result.exit_code == 0
    return {row["user_id"]: row for row in json.loads(result.stdout)}


def test_a_user_is_added_with_a_token_from_standard_input_and_it_is_sealed(run, stored_token):
    arguments = ["users", "add", "mira", "--timezone", "Europe/Oslo", "--display-name", "Mira S."]
    result = run(*arguments, "--refresh-token-stdin", stdin=TOKEN + "\n")
    assert result.exit_code == 0
    assert "spotify-pipeline sync mira" in result.stdout
    token, row = stored_token("mira")
    assert token == TOKEN
    assert row.client_id == "the-app"
    assert row.scopes == ["user-read-recently-played", "user-top-read"]
    assert abs(row.authorized_at - datetime.now(UTC)) < timedelta(minutes=1)
    mira = listed(run)["mira"]
    assert mira["timezone"] == "Europe/Oslo"
    assert mira["display_name"] == "Mira S."
    assert mira["connection"] == "connected"
    assert mira["state"] == "never"


def test_a_user_added_without_a_token_is_disconnected_and_gets_the_connect_command(run):
    result = run("users", "add", "mira", "--timezone", "Europe/Oslo")
    assert result.exit_code == 0
    assert "spotify-pipeline connect mira" in result.stdout
    assert listed(run)["mira"]["connection"] == "disconnected"


def test_adding_a_user_without_a_zone_uses_utc_and_says_so(run):
    result = run("users", "add", "mira")
    assert "time zone UTC" in result.stdout
    assert "users set mira --timezone" in result.stdout


def test_adding_again_updates_only_what_is_given(run, stored_token):
    run("users", "add", "mira", "--timezone", "Europe/Oslo", "--display-name", "Mira")
    connect = run("users", "add", "mira", "--refresh-token-stdin", stdin=TOKEN)
    assert connect.stdout.startswith("Updated mira: connected, time zone Europe/Oslo.")
    run("users", "add", "mira", "--display-name", "Mira Solberg")
    assert listed(run)["mira"]["timezone"] == "Europe/Oslo"
    assert listed(run)["mira"]["display_name"] == "Mira Solberg"
    assert stored_token("mira")[0] == TOKEN


def test_the_app_that_issued_the_token_may_be_another_one(run, environ, stored_token):
    environ.delenv("SPOTIFY_CLIENT_ID")
    arguments = ("users", "add", "mira", "--refresh-token-stdin")
    refused = run(*arguments, stdin=TOKEN)
    assert refused.exit_code == 2
    assert "SPOTIFY_CLIENT_ID" in only_line(refused)
    assert run(*arguments, "--client-id", "another", stdin=TOKEN).exit_code == 0
    assert stored_token("mira")[1].client_id == "another"


@pytest.mark.parametrize(
    "given",
    ["", "\n", "two lines\nof text\n", "a b", "töken", b"\xff\xfe", "canary" * 1000],
    ids=["empty", "newline", "lines", "blank", "umlaut", "bytes", "endless"],
)
def test_an_invalid_token_exits_2_is_not_repeated_and_adds_no_user(run, given):
    result = run("users", "add", "mira", "--refresh-token-stdin", stdin=given)
    assert result.exit_code == 2
    assert "Standard input is" in only_line(result)
    assert "canary" not in result.output
    assert listed(run) == {}


def test_a_token_ends_with_one_newline_of_any_kind(run, stored_token):
    run("users", "add", "mira", "--refresh-token-stdin", stdin=TOKEN + "\r\n")
    assert stored_token("mira")[0] == TOKEN


@pytest.mark.parametrize("user_id", ["", "x" * 256, "a...b", "line\nbreak", "bell\a", "\x7f"])
def test_the_database_decides_what_is_a_user_id(run, user_id):
    result = run("users", "add", user_id)
    assert result.exit_code == 2
    assert only_line(result).startswith("Error: A user id has 1 to 255 characters")


@pytest.mark.parametrize(
    "user_id", ["x" * 255, "auth0|1", "Ayọ̀ 🎧", "a'b\"c", "[red]", "--", "a/b"]
)
def test_any_other_text_is_a_user_id(run, user_id):
    assert run("users", "add", "--timezone", "UTC", "--", user_id).exit_code == 0
    assert list(listed(run)) == [user_id]
    assert user_id in run("users", "list").stdout
    assert run("users", "show", "--", user_id).exit_code == 0


def test_undecodable_bytes_are_refused_as_a_user_id(run):
    result = run("users", "show", "\udcff")
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_an_unknown_zone_exits_2_with_a_suggestion(run):
    for arguments in (("add", "mira"), ("set", "mira")):
        result = run("users", *arguments, "--timezone", "Europe/Osloo")
        assert result.exit_code == 2
        assert "did you mean Europe/Oslo?" in only_line(result)
    assert listed(run) == {}


def test_set_with_a_new_zone_names_the_rebuild_command(run, engine):
    run("users", "add", "mira", "--timezone", "Europe/Oslo")
    result = run("users", "set", "mira", "--timezone", "Asia/Tokyo")
    assert result.exit_code == 0
    assert "spotify-pipeline rebuild mira" in result.stdout
    with engine.connect() as conn:
        assert conn.scalar(select(t.users.c.days_stale))


def test_a_new_name_makes_no_day_stale(run):
    run("users", "add", "mira", "--timezone", "Europe/Oslo")
    result = run("users", "set", "mira", "--display-name", "Mira")
    assert result.stdout == "Updated mira.\n"
    assert listed(run)["mira"]["timezone"] == "Europe/Oslo"


def test_setting_an_unknown_user_exits_2_and_creates_none(run):
    result = run("users", "set", "nobody", "--timezone", "UTC")
    assert result.exit_code == 2
    assert only_line(result).startswith("Error: There is no user nobody.")
    assert listed(run) == {}


def test_an_empty_list_names_the_add_command_and_is_empty_json(run):
    assert "users add" in run("users", "list").stdout
    assert json.loads(run("users", "list", "--json").stdout) == []


def test_failed_users_are_listed_with_code_and_what_to_do(run, engine):
    for user_id in ("fine", "limited", "revoked"):
        run("users", "add", user_id, "--refresh-token-stdin", stdin=TOKEN)
    with engine.begin() as conn:
        s, u = t.sync_state, t.users
        conn.execute(
            update(s)
            .where(s.c.user_id == "limited")
            .values(last_error_code="RATE_LIMITED", last_error_message="Wait a little.")
        )
        conn.execute(update(u).where(u.c.user_id == "revoked").values(connection="needs_reauth"))
    # Connecting again is up to the user.
    assert set(listed(run, "--failed")) == {"limited"}
    lines = run("users", "list", "--failed").stdout.splitlines()
    assert any("limited" in line and "RATE_LIMITED" in line and "Wait" in line for line in lines)
    assert lines[-1] == "1 of 3 users failed."


def test_json_has_the_names_of_the_columns_and_instants_in_utc(run, engine):
    run("users", "add", "mira", "--refresh-token-stdin", stdin=TOKEN)
    at = datetime(2026, 3, 1, 12, 0, 0, 5000, tzinfo=UTC)
    with engine.begin() as conn:
        conn.execute(update(t.sync_state).values(last_synced_at=at, next_due_at=at))
    mira = listed(run)["mira"]
    assert list(mira) == [
        *("user_id", "display_name", "timezone", "connection", "state", "plays", "days"),
        *("last_synced_at", "last_error_code", "last_error_message", "next_due_at"),
        "reconnect_by",
    ]
    assert mira["last_synced_at"] == "2026-03-01T12:00:00.005000Z"
    assert mira["reconnect_by"].endswith("Z")


def test_a_name_cannot_move_the_cursor_or_turn_the_writing_around(run):
    run("users", "add", "mira", "--display-name", "\x1b[2Jmi\u202era\n[red]")
    for arguments in (("users", "list"), ("users", "show", "mira")):
        shown = run(*arguments).stdout
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "[2Jmi\ufffdra\ufffd[red]" in shown


def test_show_prints_recent_days_tops_and_why_a_metric_is_missing(run, engine):
    run("users", "add", "mira", "--timezone", "Asia/Tokyo", "--refresh-token-stdin", stdin=TOKEN)
    with engine.begin() as conn:
        conn.execute(text("SET LOCAL search_path = spotify_pipeline"))
        conn.execute(
            text(
                "INSERT INTO daily_listening (user_id, date, minutes, listened_ms, plays,"
                " unique_tracks, unique_artists, completeness) VALUES ('mira',"
                " (now() AT TIME ZONE 'Asia/Tokyo')::date - 1, 1234, 74040000, 300, 200, 90,"
                " 'complete')"
            )
        )
        add_top(conn, "tracks", "mira", 1, "t1", name="A Song", artist_name="A Band")
        conn.execute(
            text(
                "INSERT INTO music_personality (user_id, window_start, window_end, play_count,"
                " artist_diversity, reasons, tags, definition_version) VALUES ('mira',"
                " '2026-01-01', '2026-01-28', 300, 0.5,"
                """ '{"peak_hour": "needs 50 plays, has 12"}', '{Explorer}', 1)"""
            )
        )
    shown = run("users", "show", "mira").stdout
    assert "A Song (A Band)" in shown
    assert "1,234" in shown
    assert "complete" in shown
    assert "needs 50 plays, has 12" in shown
    assert "Explorer" in shown
    asked = json.loads(run("users", "show", "mira", "--json").stdout)
    assert [day["minutes"] for day in asked["daily_listening"]] == [None] * 5 + [1234, None]
    assert asked["daily_listening"][-1]["completeness"] == "unknown"
    assert asked["top_artist"] is None
    assert asked["top_track"] == {"spotify_id": "t1", "name": "A Song", "artist_name": "A Band"}
    assert asked["music_personality"]["artist_diversity"] == 0.5
    assert asked["music_personality"]["window_end"] == "2026-01-28"
    assert "token" not in json.dumps(asked)


def test_showing_an_unknown_user_exits_2(run):
    result = run("users", "show", "nobody", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""


def test_the_token_is_in_no_output_of_any_command(run):
    outputs = [run("users", "add", "mira", "--refresh-token-stdin", stdin=TOKEN).output]
    outputs += [run("users", "add", "a...b", "--refresh-token-stdin", stdin=TOKEN).output]
    for arguments in (("list",), ("list", "--json"), ("show", "mira"), ("show", "mira", "--json")):
        outputs.append(run("users", *arguments).output)
    outputs.append(run("doctor").output)
    assert "canary-refresh" not in "".join(outputs)
