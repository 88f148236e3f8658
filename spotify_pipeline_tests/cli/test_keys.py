"""Keys are made, listed, rotated and dropped; none that is needed goes."""

import base64
import json
import stat
from pathlib import Path

import pytest
from sqlalchemy import select

from spotify_pipeline.domain.sealing import Keyring, new_key, seal
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.database import leave_database, open_engine
from spotify_pipeline.sync.admin.keys import load_keyring
from spotify_pipeline_tests.cli.conftest import TOKEN_KEY, only_line

TOKEN = "AQ" + "canary-refresh-token" * 5
OLD = "testkey01"
NEW, NEW_KEY = "newer", "newer:" + new_key()[1].partition(":")[2]


@pytest.fixture
def users(run):
    """Three users whose tokens are sealed with the old key."""
    for user_id in ("anna", "ben", "cleo"):
        run("users", "add", user_id, "--refresh-token-stdin", stdin=f"{TOKEN}-{user_id}")


@pytest.fixture
def opened(engine):
    """Every user's refresh token, opened with these keys alone."""

    def opened(keys):
        keyring = Keyring.parse(keys)
        with engine.connect() as conn:
            rows = conn.execute(select(t.user_tokens)).all()
        return {
            row.user_id: keyring.open(row.key_id, row.sealed_refresh_token, row.user_id)
            for row in rows
        }

    return opened


def listed(run):
    result = run("keys", "list", "--json")
    assert result.exit_code == 0, result.output
    return {row["key_id"]: (row["state"], row["tokens"]) for row in json.loads(result.stdout)}


def test_a_new_key_is_printed_alone_on_stdout_and_works(run, environ):
    made = run("keys", "new")
    assert made.exit_code == 0
    environ.setenv("SPOTIFY_PIPELINE_TOKEN_KEYS", made.stdout.strip())
    assert listed(run) == {made.stdout.partition(":")[0]: ("current", 0)}


def test_the_list_shows_what_an_app_seals_with_and_no_secret(run, users):
    (row,) = json.loads(run("keys", "list", "--json").stdout)
    assert (row["key_id"], row["state"], row["tokens"]) == (OLD, "current", 3)
    sealed = seal(base64.b64decode(row["public_key"]), "dora", TOKEN)
    assert Keyring.parse(TOKEN_KEY).open(OLD, sealed, "dora") == TOKEN
    shown = run("keys", "list").stdout + run("keys", "list", "--json").stdout
    assert TOKEN_KEY.partition(":")[2] not in shown


def test_rotating_reseals_every_token_and_names_the_key_to_drop(run, users, opened, environ):
    environ.setenv("SPOTIFY_PIPELINE_TOKEN_KEYS", f"{NEW_KEY},{TOKEN_KEY}")
    assert listed(run) == {NEW: ("current", 0), OLD: ("older", 3)}
    result = run("keys", "rotate")
    assert result.exit_code == 0, result.output
    assert "3 users sealed anew; 3 tokens with the key newer." in result.stdout
    assert f"No stored token needs {OLD} any more." in result.stdout
    assert "take it out of SPOTIFY_PIPELINE_TOKEN_KEYS" in result.stdout
    assert opened(NEW_KEY) == {user: f"{TOKEN}-{user}" for user in ("anna", "ben", "cleo")}
    environ.setenv("SPOTIFY_PIPELINE_TOKEN_KEYS", NEW_KEY)
    assert run("keys", "rotate").stdout.startswith("0 users sealed anew; 3 tokens")


def test_a_key_in_use_cannot_be_dropped(run, users, environ):
    environ.setenv("SPOTIFY_PIPELINE_TOKEN_KEYS", f"{NEW_KEY},{TOKEN_KEY}")
    refused = run("keys", "drop", OLD)
    assert refused.exit_code == 1
    assert "3 tokens still sealed with testkey01" in only_line(refused)
    assert run("keys", "drop", NEW).exit_code == 2
    assert run("keys", "drop", "nonsense").exit_code == 2
    run("keys", "rotate")
    dropped = run("keys", "drop", OLD)
    assert dropped.exit_code == 0
    assert "take it out of SPOTIFY_PIPELINE_TOKEN_KEYS" in dropped.stdout


def test_tokens_whose_key_is_missing_or_that_were_tampered_with_stay_and_are_counted(
    run, users, environ, engine
):
    with engine.begin() as conn:
        k = t.user_tokens
        annas = conn.scalar(select(k.c.sealed_refresh_token).where(k.c.user_id == "anna"))
        conn.execute(k.update().where(k.c.user_id == "ben").values(sealed_refresh_token=annas))
        conn.execute(k.update().where(k.c.user_id == "cleo").values(key_id="lost"))
    environ.setenv("SPOTIFY_PIPELINE_TOKEN_KEYS", f"{NEW_KEY},{TOKEN_KEY}")
    result = run("keys", "rotate")
    assert result.exit_code == 1
    assert "1 user sealed anew; 1 token with the key newer." in result.stdout
    assert "1 token left as before: The sealed token belongs to another user." in result.stderr
    assert "no token key with the id 'lost'" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: 2 tokens not sealed anew")
    assert listed(run) == {NEW: ("current", 1), OLD: ("older", 1), "lost": ("missing", 1)}
    assert run("keys", "drop", OLD).exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("sync", "anna"),
        ("rebuild",),
        ("keys", "list"),
        ("keys", "rotate"),
        ("users", "add", "anna", "--refresh-token-stdin"),
    ],
)
def test_without_a_key_commands_name_keys_new(run, environ, arguments):
    environ.delenv("SPOTIFY_PIPELINE_TOKEN_KEYS")
    result = run(*arguments, stdin=TOKEN)
    assert result.exit_code == 2
    assert "spotify-pipeline keys new" in only_line(result)


def test_keys_from_the_environment_are_not_saved(run):
    result = run("keys", "new", "--save")
    assert result.exit_code == 2
    assert "without --save" in only_line(result)


@pytest.fixture
def key_file(run, environ, tmp_path: Path):
    """A home of its own, with an embedded database and a key file."""
    environ.delenv("SPOTIFY_PIPELINE_DATABASE_URL")
    environ.delenv("SPOTIFY_PIPELINE_TOKEN_KEYS")
    assert run("init-db").exit_code == 0
    for user_id in ("anna", "ben"):
        added = run("users", "add", user_id, "--refresh-token-stdin", stdin=TOKEN)
        assert added.exit_code == 0, added.output
    yield tmp_path / "home" / "token-keys"
    leave_database(load_settings())


def test_a_key_file_is_rotated_and_its_old_key_dropped(run, key_file: Path):
    (old,) = listed(run)
    settings = load_settings()
    engine = open_engine(settings)
    started_before = load_keyring(settings, engine)
    saved = run("keys", "new", "--save")
    assert saved.exit_code == 0, saved.output
    assert key_file.read_text().partition(":")[2].strip() not in saved.output
    (new,) = set(listed(run)) - {old}
    assert listed(run) == {new: ("current", 0), old: ("older", 2)}
    assert run("keys", "drop", old).exit_code == 1
    rotated = run("keys", "rotate")
    assert f"spotify-pipeline keys drop {old}" in rotated.stdout
    # A process that read the file before opens what was sealed for the key that came since.
    with engine.connect() as conn:
        for row in conn.execute(select(t.user_tokens)):
            assert row.key_id == new
            assert started_before.open(new, row.sealed_refresh_token, row.user_id) == TOKEN
    engine.dispose()
    assert run("keys", "drop", old).exit_code == 0
    assert listed(run) == {new: ("current", 2)}
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert [path.name for path in key_file.parent.glob("token-keys*")] == ["token-keys"]

    # A missing key beside rows that it sealed is never replaced by a new one.
    key_file.rename(key_file.with_name("moved"))
    for arguments in (("keys", "list"), ("users", "add", "cleo", "--refresh-token-stdin")):
        refused = run(*arguments, stdin=TOKEN)
        assert refused.exit_code == 2
        assert "Restore the file" in only_line(refused)
    assert not key_file.exists()
