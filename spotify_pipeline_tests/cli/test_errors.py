"""Errors are one sentence with what to do, an exit code, and never a secret."""

import socket
import stat
from pathlib import Path

import pytest
from sqlalchemy import text

from spotify_pipeline.app import register_user
from spotify_pipeline.redaction import MASK, redact
from spotify_pipeline_tests.cli.conftest import CLIENT_SECRET, TOKEN_KEY, only_line, with_password

PASSWORD = "canary-pass-word"


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_database_that_is_not_there_is_named_without_its_password(process, environ, closed_port):
    address = f"postgresql://someone:{PASSWORD}@127.0.0.1:{closed_port}/music"
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", address)
    result = process("users", "list")
    assert result.returncode == 2
    assert result.stderr == (
        f"Error: The database music on 127.0.0.1:{closed_port} cannot be used: nothing listens "
        "there; start the server or correct SPOTIFY_PIPELINE_DATABASE_URL.\n"
    )
    assert result.stdout == ""


def test_a_wrong_password_is_said_to_be_one(run, environ, database):
    if not database.password:
        pytest.skip("this server asks nobody for a password")
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(database.set(password=PASSWORD)))
    result = run("users", "list")
    assert result.exit_code == 2
    assert "refuses this user or password" in only_line(result)
    assert PASSWORD not in result.output


def test_a_database_that_does_not_exist_is_to_be_created(run, environ, database):
    environ.setenv(
        "SPOTIFY_PIPELINE_DATABASE_URL", with_password(database.set(database="no_such_one"))
    )
    result = run("init-db")
    assert result.exit_code == 2
    assert "no_such_one" in only_line(result)
    assert "there is no such database; create it" in result.stderr


def test_a_host_that_does_not_exist_is_said_to_be_unknown(run, environ):
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", "postgresql://u@db.invalid/music")
    result = run("users", "list")
    assert result.exit_code == 2
    assert "db.invalid:5432" in only_line(result)
    assert "there is no such host" in result.stderr


@pytest.mark.parametrize("password", ["canary@pass-word", "canary@pass/word", "canary@pass?word"])
def test_an_unescaped_at_sign_leaks_no_part_of_the_password(run, environ, password):
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", f"postgresql://u:{password}@127.0.0.1:1/x")
    result = run("users", "list")
    assert result.exit_code in (1, 2)
    assert "word" not in only_line(result).replace("password", "")
    assert "canary" not in result.output


@pytest.mark.parametrize(
    "url", ["mysql://u:canary-pass-word@h/d", "canary-pass-word", "postgresql://h:canary-port/d"]
)
def test_a_url_of_no_postgres_exits_2_and_is_not_repeated(run, environ, url):
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", url)
    result = run("init-db")
    assert result.exit_code == 2
    assert "SPOTIFY_PIPELINE_DATABASE_URL is wrong." in only_line(result)
    assert "postgresql://" in only_line(result)
    assert "canary" not in result.output


def test_an_unknown_url_option_is_reported(run, environ, database):
    url = with_password(database.update_query_dict({"canary_option": "1"}))
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", url)
    result = run("users", "list")
    assert result.exit_code == 2
    assert "an option that Postgres's client does not know" in only_line(result)


def test_a_database_without_the_schema_sends_to_init_db(run, environ, empty_database):
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(empty_database))
    for arguments in (("users", "list"), ("rebuild",), ("sync", "--all")):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "spotify-pipeline init-db" in only_line(result)


def test_each_wrong_variable_is_named_and_its_value_is_not(process):
    result = process(
        "users",
        "list",
        SPOTIFY_API_URL="http://canary.example.com",
        SPOTIFY_PIPELINE_TOP_LIMIT="canary",
    )
    assert result.returncode == 2
    assert "SPOTIFY_API_URL must use https" in result.stderr
    assert "SPOTIFY_PIPELINE_TOP_LIMIT" in result.stderr
    assert "canary" not in result.stderr


def test_an_unexpected_error_prints_its_type_and_writes_a_private_log(run, engine, tmp_path):
    secrets = f"{CLIENT_SECRET} {TOKEN_KEY} postgresql://u:{PASSWORD}@h/d"
    with engine.begin() as conn:
        conn.execute(text("SET LOCAL search_path = spotify_pipeline"))
        body = f"BEGIN RAISE EXCEPTION 'too bad: {secrets}'; END"
        conn.execute(
            text(f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        )
        conn.execute(text("CREATE TRIGGER fail BEFORE INSERT ON users EXECUTE FUNCTION fail()"))
    result = run("users", "add", "mira", "--timezone", "UTC")
    log = tmp_path / "home" / "logs" / "last-error.log"
    assert result.exit_code == 1
    assert only_line(result) == (
        f"Error: Something unexpected failed: ProgrammingError. The details are in {log}."
    )
    written = log.read_text()
    assert "Traceback" in written
    assert "too bad" in written
    for secret in (CLIENT_SECRET, TOKEN_KEY.partition(":")[2], PASSWORD):
        assert secret not in written
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_an_unwritable_log_raises_no_second_error(run, engine, environ, tmp_path):
    Path(tmp_path / "home").write_text("a file, where the home should be")
    with engine.begin() as conn:
        register_user(conn, "mira", "UTC", None)
        conn.execute(text("ALTER TABLE spotify_pipeline.users RENAME COLUMN timezone TO zone"))
    result = run("users", "list")
    assert result.exit_code == 1
    assert "No log could be written" in only_line(result)


def test_a_token_typed_as_an_argument_by_mistake_is_not_repeated(run):
    token = "AQ" + "aB3-_" * 26
    result = run("users", "add", "mira", token)
    assert result.exit_code == 2
    assert token not in result.output
    assert MASK in result.stderr


@pytest.mark.parametrize(
    "leak",
    [
        "Authorization: Bearer canary.token",
        "postgres://me:canary:pass/word@host/db",
        f"keys {TOKEN_KEY} end",
        "token AQDf3_canary0123456789abcdefghijklmnopqrstuvwXYZ end",
    ],
)
def test_redaction_recognizes_the_forms_of_secrets(leak):
    redacted = redact(leak)
    assert "canary" not in redacted
    assert TOKEN_KEY.partition(":")[2] not in redacted
    assert MASK in redacted


def test_redaction_recognizes_values_of_the_environment(environ):
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", "postgresql://me:p%40ss@host/db")
    environ.setenv("SPOTIFY_CLIENT_SECRET", "short")
    assert redact("p%40ss p@ss short") == f"{MASK} {MASK} {MASK}"


def test_redaction_leaves_ordinary_sentences_unchanged(environ):
    for sentence in (
        "There is no user 0123456789abcdef0123456789abcdef.",
        "The details are in /home/me/a_long_path_of_many_words/logs/last-error.log.",
        "run 7d66630b-52c7-401d-ac31-7439f8d2a24d at https://api.spotify.com",
    ):
        assert redact(sentence) == sentence


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_output_to_a_full_disk_is_named(process, more):
    assert process("users", "add", "mira", "--timezone", "UTC").returncode == 0
    with Path("/dev/full").open("w") as full:
        result = process("users", "list", *more, stdout=full)
    assert result.returncode == 1
    assert "Make room" in result.stderr
    assert "unexpected" not in result.stderr


def test_a_too_long_path_and_undecodable_text_are_wrong_usage(process):
    add = ("users", "add", "mira", "--timezone", "UTC")
    assert process(*add).returncode == 0
    result = process("import-history", "mira", "a" * 5000)
    assert result.returncode == 2
    assert "Correct the path" in result.stderr
    result = process(*add, "--display-name", "\udcff")
    assert result.returncode == 2
    assert "Write it in UTF-8" in result.stderr
