"""Secrets are redacted from logs and tracebacks."""

import http.client
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from spotify_pipeline.redaction import MASK, install
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.oauth import OAuthClient
from spotify_pipeline.storage.postgres.engine import make_engine

SECRET = "canary-client-secret"
TOKEN = "AQ" + "Canary9refresh_token-" * 5
LEAKS = {
    "environment": SECRET,
    "bearer": f"Authorization: Bearer {TOKEN}",
    "short bearer": "Bearer canary9",
    "basic": "Authorization: Basic Y2FuYXJ5OmNhbmFyeWNhbmFyeWNhbmFyeQ==",
    "url": "postgresql://me:canary@db.example/app",
    "form": "grant_type=refresh_token&refresh_token=canary-token&x=1",
    "verifier": "code_verifier=canary-verifier",
    "callback": "/callback?state=x&code=canary" + "c" * 40,
    "token": TOKEN,
    "alert address": "http://127.0.0.1:9 POST /services/canary-alert?x=1 HTTP/1.1 404",
    "broker": "redis://:canary@127.0.0.1:6379/0",
    "of a database": "no connection with canary-database-password",
}
FOUND = ("canary", "Canary", "Y2FuYXJ5")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installs the redaction for one test, as in our processes."""
    monkeypatch.setenv("SPOTIFY_CLIENT_SECRET", SECRET)
    monkeypatch.setenv(
        "SPOTIFY_PIPELINE_ALERT_URL", "https://hooks.example/services/canary-alert?x=1"
    )
    # Opens no connection.
    make_engine("postgresql://me:canary-database-password@db.example/app").dispose()
    factory, hook = logging.getLogRecordFactory(), sys.excepthook
    monkeypatch.setattr("threading.excepthook", lambda failed: None)
    logging.setLogRecordFactory(logging.LogRecord)
    install()
    install()
    yield
    logging.setLogRecordFactory(factory)
    sys.excepthook = hook


def leaked(text: str) -> list[str]:
    return [secret for secret in FOUND if secret in text]


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_log_line_of_any_logger_is_redacted(
    installed: None, caplog: pytest.LogCaptureFixture, leak: str
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("spotify_pipeline.sync", "urllib3.connectionpool", "dagster", "somebody.else"):
        logger = logging.getLogger(name)
        logger.debug(leak)
        logger.warning("in the arguments: %s %r", leak, {"x": leak})
        logger.error("too few: %s %s", leak)
        logger.error("not a number: %d", leak)
        try:
            raise ValueError(leak)
        except ValueError:
            logger.exception("failed")
            try:
                raise RuntimeError("around it")
            except RuntimeError as error:
                logger.error("again", exc_info=error)
    for record in caplog.records:
        assert leaked(f"{record.getMessage()} {record.args!r} {record.exc_text}") == []
    assert leaked(caplog.text) == []
    assert caplog.text.count(MASK) >= 4 * 4
    assert "ValueError" in caplog.text


def test_an_ordinary_line_is_left_alone(installed: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger("x").info("%s of %s, error_code=%s, basic things", 3, "five", "RECONNECT")
    assert caplog.records[0].args == (3, "five", "RECONNECT")
    assert "3 of five, error_code=RECONNECT, basic things" in caplog.text


LAST_WORDS = f"""
import threading
from spotify_pipeline.redaction import install
install()
def fail():
    raise ValueError({TOKEN!r})
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_uncaught_exceptions_of_processes_and_threads_are_redacted() -> None:
    died = subprocess.run(
        [sys.executable, "-c", LAST_WORDS],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert died.returncode == 1
    assert died.stderr.count(f"ValueError: {MASK}") == 2
    assert leaked(died.stdout + died.stderr) == []


def test_the_debug_level_of_http_client_prints_no_header(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """http.client uses print, which log filters do not see."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 2)
    with running_simulator(listeners=1) as simulator:
        (mira,) = simulator.listeners()
        transport = Transport(connections=1)
        oauth = OAuthClient(simulator.url, simulator.client_id, simulator.client_secret, transport)
        capsys.readouterr()
        granted = oauth.refresh(mira.refresh_token)
        transport.close()
    printed = capsys.readouterr().out
    for secret in (granted.access_token, mira.refresh_token, "Basic"):
        assert secret not in printed
