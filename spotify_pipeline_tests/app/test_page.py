"""The app developer's documentation: its SQL and Python run, and it lists every error code."""

import json
import re
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Connection, Engine, text, update
from standardwebhooks import WebhookVerificationError

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.sealing import Keyring, new_key
from spotify_pipeline.portrait.meanings import INCOMPLETE
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.deliver import signed_headers
from spotify_pipeline.web.dashboard import TOASTS
from spotify_pipeline_tests.storage.rows import add_user, finish_request, request_sync

PAGE = (Path(__file__).parents[2] / "docs" / "app.md").read_text()
SQL_FILES = Path(__file__).parents[2] / "spotify_pipeline" / "storage" / "sql"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def snippet(function: str) -> Any:
    """A function from the page, as an app copies it."""
    (source,) = [block for block in blocks("python") if f"def {function}(" in block]
    names: dict[str, Any] = {}
    exec(source, names)
    return names[function]


def test_every_error_code_has_a_toast_and_the_web_page_shows_it() -> None:
    toasts = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert set(toasts) == set(ErrorCode)
    assert toasts == TOASTS


def test_every_sqlstate_that_our_functions_raise_is_on_the_page() -> None:
    raised = {
        state
        for script in SQL_FILES.glob("*.sql")
        for state in re.findall(r"ERRCODE = '(SP\d+)'", script.read_text())
    }
    rows = set(re.findall(r"^\| `(SP\d+)` \|", PAGE, re.MULTILINE))
    assert raised == rows
    assert rows == {"SP403", "SP404", "SP409", "SP413", "SP422", "SP423", "SP429"}


def test_every_state_of_sync_status_is_on_the_page() -> None:
    (view,) = re.findall(r"CASE(.*?)END AS state", (SQL_FILES / "status.sql").read_text(), re.S)
    for state in re.findall(r"(?:THEN|ELSE) '(\w+)'", view):
        assert f"`{state}`" in PAGE


def test_every_reason_of_an_incomplete_day_is_on_the_page_and_has_words() -> None:
    (function,) = re.findall(
        r"FUNCTION incomplete_days.*?\$\$;", (SQL_FILES / "listening.sql").read_text(), re.DOTALL
    )
    reasons = set(re.findall(r"(?:THEN|ELSE) '(\w+)'", function))
    assert reasons == set(INCOMPLETE)
    for reason in reasons:
        assert f"`{reason}`" in PAGE


def test_every_column_of_the_settings_is_on_the_page_with_its_default(
    connection: Connection,
) -> None:
    for column in set(t.settings.columns.keys()) - {"singleton"}:
        assert f"| `{column}` |" in PAGE
    default = connection.scalar(text("SELECT request_cooldown FROM spotify_pipeline.settings"))
    assert default == timedelta(hours=1)


def test_every_statement_of_the_page_runs_with_the_apps_rights(
    app: Connection, connection: Connection
) -> None:
    add_user(connection, "mira")
    statements = [one for block in blocks("sql") for one in block.split(";") if one.strip()]
    assert len(statements) == 16
    for statement in statements:
        # The page has no parameters, and text() would parse ::bytea as one.
        app.exec_driver_sql(statement)
    assert connection.execute(t.users.select()).all() == []


def test_the_example_button_shows_the_result(app_engine: Engine, connection: Connection) -> None:
    press = snippet("press")
    assert press(app_engine, "mira") == "There is no such user."
    add_user(connection, "mira")
    assert press(app_engine, "mira").startswith("Your sync is queued")


def test_the_psycopg_example_distinguishes_refusals_and_reads_retry_at(
    connection: Connection, database: URL, login: tuple[str, str]
) -> None:
    press = snippet("press_with_psycopg")
    url = database.set(drivername="postgresql", username=login[0], password=login[1])
    add_user(connection, "mira", connection="disconnected")
    with psycopg.connect(url.render_as_string(hide_password=False)) as conn:
        assert press(conn, "nobody") == ("There is no such user.", None)
        assert "Reconnect Spotify" in press(conn, "mira")[0]
        connection.execute(update(t.users).values(connection="connected"))
        assert press(conn, "mira")[0].startswith("Your sync is queued")
        finish_request(connection, request_sync(connection, "mira").request_id, "0 seconds")
        words, until = press(conn, "mira")
        assert words.startswith("You synced a short while ago.")
        assert timedelta(minutes=59) < until - datetime.now(UTC) <= timedelta(hours=1)


def test_a_token_that_the_page_seals_opens() -> None:
    keyring = Keyring.parse(new_key()[1])
    public_key = keyring.public_key(keyring.current_id)
    sealed = snippet("seal")(b64encode(public_key).decode(), "mira 🎧", "a-token")
    assert keyring.open(keyring.current_id, sealed, "mira 🎧") == "a-token"


@pytest.fixture
def call() -> tuple[dict[str, str], bytes]:
    """A call of the cache hook as the pipeline makes it."""
    body = json.dumps({"user_ids": ["mira"]}).encode()
    return signed_headers("secret", "msg_1", int(time.time()), body), body


def test_the_documented_verifier_accepts_only_genuine_webhooks(
    call: tuple[dict[str, str], bytes],
) -> None:
    is_genuine = snippet("is_genuine")
    headers, body = call
    assert is_genuine("secret", headers, body)
    assert not is_genuine("another", headers, body)
    assert not is_genuine("secret", headers, body + b" ")
    assert not is_genuine("secret", {}, body)
    for name in [name for name in headers if name.startswith("X-")]:
        for wrong in ("", "sha256=", "é", headers[name] + "0"):
            assert not is_genuine("secret", headers | {name: wrong}, body)
    replayed = signed_headers("secret", "msg_1", int(time.time()) - 3600, body)
    assert not is_genuine("secret", replayed, body)


@pytest.mark.parametrize(
    "secret", ["a secret – of words", "whsec_" + b64encode(b"k" * 24).decode()]
)
def test_the_standard_webhooks_library_accepts_only_genuine_webhooks(
    secret: str,
) -> None:
    verified = snippet("verified")
    body = json.dumps({"user_ids": ["mira", "ben ✓"]}).encode()
    headers = signed_headers(secret, "msg_1", int(time.time()), body)
    assert verified(secret, headers, body) == {"user_ids": ["mira", "ben ✓"]}
    old = signed_headers(secret, "msg_1", int(time.time()) - 3600, body)
    for forged in (
        (secret[:-4] + "BBBB", headers, body),
        (secret, headers, body + b" "),
        (secret, headers | {"webhook-id": "msg_2"}, body),
        (secret, headers | {"webhook-signature": "v1,AAAA"}, body),
        (secret, old, body),
    ):
        with pytest.raises(WebhookVerificationError):
            verified(*forged)
