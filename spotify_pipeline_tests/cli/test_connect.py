"""A user connects in a browser; each failure shows one message in browser and terminal."""

import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from sqlalchemy import select, text

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.sealing import Keyring
from spotify_pipeline.simulator.faults.refusals import Forbidden, InvalidClient, Latency
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.admin import connect as words
from spotify_pipeline_tests.cli.browser_user import (
    Browser,
    Page,
    Visit,
    changed,
    consent_as,
    free_port,
    refusing,
    visit,
)
from spotify_pipeline_tests.cli.conftest import COMMAND, TOKEN_KEY, Run, only_line


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Browser:
    """The browser of this machine."""
    browser = Browser()
    monkeypatch.setattr("webbrowser.open", browser.open)
    return browser


@pytest.fixture
def port() -> int:
    """Where the browser comes back to."""
    return free_port()


@pytest.fixture
def connect(run: Run, browser: Browser, port: int) -> Run:
    """Runs `connect` with a user at the browser: `connect(consent_as("mira"), "--sync")`."""

    def connect(user: Visit | None, *arguments: str) -> object:
        browser.user = user
        return run("connect", "--port", str(port), *arguments)

    return connect


@pytest.fixture
def mira(simulator):
    """A listener at Spotify, whom the pipeline does not know."""
    simulator.clear_faults()
    simulator.register_redirects(None)
    return simulator.add_listener("mira", "Europe/Oslo", display_name="Mira Solberg")


@pytest.fixture
def kenji(simulator, mira):
    """Somebody else."""
    return simulator.add_listener("kenji", "Asia/Tokyo", display_name="Kenji A.")


@pytest.fixture
def stored(engine):
    """The stored user and token, the token opened; None if there is no such user."""

    def stored(user_id):
        u, k = t.users, t.user_tokens
        with engine.connect() as conn:
            row = conn.execute(
                select(u, *(column for column in k.c if column.name != "user_id"))
                .outerjoin(k, k.c.user_id == u.c.user_id)
                .where(u.c.user_id == user_id)
            ).one_or_none()
        if row is None or row.key_id is None:
            return row, None
        keyring = Keyring.parse(TOKEN_KEY)
        return row, keyring.open(row.key_id, row.sealed_refresh_token, user_id)

    return stored


def test_consent_connects_the_user_under_spotifys_id_and_name(connect, browser, mira, stored):
    result = connect(consent_as("mira"), "--timezone", "Europe/Oslo")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "mira (Mira Solberg) is connected to Spotify."
    assert result.stdout.splitlines()[-1] == "Next: spotify-pipeline sync mira"
    page = browser.last_page
    assert page.status == 200
    assert page.sentence == (
        "mira (Mira Solberg) is connected to Spotify. You can close this page."
    )
    row, token = stored("mira")
    assert token == mira.refresh_token
    assert row.account_id == mira.account_id
    assert (row.display_name, row.timezone) == ("Mira Solberg", "Europe/Oslo")
    assert row.connection == "connected"
    assert row.scopes == ["user-read-recently-played", "user-top-read"]
    assert abs(row.authorized_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_spotify_is_asked_for_exactly_two_scopes_with_pkce_and_a_state(
    connect, browser, mira, port
):
    asked: list[str] = []
    connect(lambda address: asked.append(address) or consent_as("mira")(address))
    query = {name: values for name, values in parse_qs(urlsplit(asked[0]).query).items()}
    assert query["scope"] == ["user-read-recently-played user-top-read"]
    assert query["redirect_uri"] == [f"http://127.0.0.1:{port}/callback"]
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["code_challenge"][0]) == 43
    assert len(query["state"][0]) >= 32
    assert query["response_type"] == ["code"]
    connect(lambda address: asked.append(address) or consent_as("mira")(address))
    again = parse_qs(urlsplit(asked[1]).query)
    assert again["state"] != query["state"]
    assert again["code_challenge"] != query["code_challenge"]


def test_connect_can_run_the_first_sync(connect, mira, dagster):
    result = connect(consent_as("mira"), "--sync")
    assert result.exit_code == 0, result.output
    assert "mira is up to date" in result.stdout


def test_adding_a_user_without_a_zone_says_how_to_set_it(connect, mira, stored):
    result = connect(consent_as("mira"))
    assert "users set mira --timezone" in result.stdout
    assert stored("mira")[0].timezone == "UTC"


def test_without_a_client_secret_pkce_is_enough(connect, mira, stored, environ):
    environ.delenv("SPOTIFY_CLIENT_SECRET")
    assert connect(consent_as("mira")).exit_code == 0
    assert stored("mira")[1] == mira.refresh_token


def test_a_user_id_of_the_apps_own_can_be_given(connect, mira, stored):
    assert connect(consent_as("mira"), "app user 17").exit_code == 0
    assert stored("app user 17")[0].account_id == mira.account_id
    assert stored("mira")[0] is None


def test_reconnecting_waits_for_a_write_without_a_deadlock(connect, mira, stored, engine):
    """Deadlock: the write locked users before sync_state, and connect sync_state before users."""
    connect(consent_as("mira"), "--timezone", "Europe/Oslo")
    user, state = (select(a).where(a.c.user_id == "mira") for a in (t.users, t.sync_state))
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    begun, alone = threading.Event(), threading.Event()

    def write() -> None:
        with engine.begin() as conn, engine.connect() as other:
            conn.execute(user.with_for_update(read=True, key_share=True))
            begun.set()
            for _ in range(500):
                with other.begin():
                    if other.scalar(waiting):
                        break
                alone.wait(0.02)
            conn.execute(state.with_for_update())

    with ThreadPoolExecutor(1) as sync:
        writing = sync.submit(write)
        assert begun.wait(30)
        result = connect(consent_as("mira"), "--timezone", "Asia/Tokyo")
        writing.result(30)
    assert result.exit_code == 0, result.output
    assert stored("mira")[0].timezone == "Asia/Tokyo"


def test_connecting_again_keeps_history_name_and_zone_and_clears_failures(
    connect, mira, stored, simulator, engine
):
    connect(consent_as("mira"), "app-17", "--timezone", "Europe/Oslo")
    with engine.begin() as conn:
        conn.execute(text("SET LOCAL search_path = spotify_pipeline"))
        conn.execute(
            text("UPDATE users SET connection = 'needs_reauth', display_name = 'My own name'")
        )
        conn.execute(
            text("UPDATE sync_state SET consecutive_failures = 3, last_error_code = 'RECONNECT'")
        )
        conn.execute(
            text(
                "INSERT INTO daily_listening (user_id, date, minutes, listened_ms, plays,"
                " unique_tracks, unique_artists, completeness)"
                " VALUES ('app-17', '2026-01-01', 1, 60000, 1, 1, 1, 'complete')"
            )
        )
    simulator.revoke("mira")
    # Without a name: the account says who it is.
    result = connect(consent_as("mira"))
    assert result.exit_code == 0, result.output
    assert "app-17 (My own name) is connected" in result.stdout
    row, token = stored("app-17")
    assert (row.connection, row.timezone, row.display_name) == (
        *("connected", "Europe/Oslo", "My own name"),
    )
    assert token not in (None, mira.refresh_token)
    with engine.connect() as conn:
        state = conn.execute(select(t.sync_state)).one()
        assert (state.consecutive_failures, state.last_error_code) == (0, None)
        assert conn.execute(select(t.daily_listening)).one().minutes == 1


def test_a_second_spotify_account_cannot_take_over_a_user(connect, browser, mira, kenji, stored):
    connect(consent_as("mira"))
    before = stored("mira")
    result = connect(consent_as("kenji"), "mira")
    assert result.exit_code == 1
    assert "another Spotify account" in result.stderr
    assert browser.last_page.sentence in result.stderr
    assert stored("mira") == before


def test_an_account_cannot_be_two_users(connect, browser, mira, stored):
    connect(consent_as("mira"))
    result = connect(consent_as("mira"), "somebody-else")
    assert result.exit_code == 1
    assert "already the user mira" in result.stderr
    assert browser.last_page.sentence in result.stderr
    assert stored("somebody-else")[0] is None


def one_scope(address: str) -> Page:
    """Somebody who is asked for less, as by a page in between."""
    return consent_as("mira")(changed(address, scope="user-top-read"))


def stale_code(address: str) -> Page:
    """The code was used before."""
    home = parse_qs(urlsplit(address).query)
    return visit(f"{home['redirect_uri'][0]}?code=used-already&state={home['state'][0]}")


def no_code(address: str) -> Page:
    home = parse_qs(urlsplit(address).query)
    return visit(f"{home['redirect_uri'][0]}?error=server_error&state={home['state'][0]}")


FAILURES = {
    "denied": (refusing, None, words.DENIED),
    "no code": (no_code, None, words.NO_CODE),
    "code refused": (stale_code, None, "Spotify did not take the code"),
    "scope missing": (one_scope, None, WHAT_TO_DO[ErrorCode.MISSING_SCOPE]),
    "wrong client": (consent_as("mira"), InvalidClient(), words.BAD_CLIENT),
    "not allow-listed": (
        *(consent_as("mira"), Forbidden(reason="not_allowlisted")),
        WHAT_TO_DO[ErrorCode.NOT_ALLOWLISTED],
    ),
    "no Premium": (consent_as("mira"), Forbidden(reason="not_premium"), words.PREMIUM),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_shows_one_message_in_browser_and_terminal_and_stores_nothing(
    connect, browser, mira, stored, simulator, failure
):
    user, fault, sentence = FAILURES[failure]
    if fault is not None:
        simulator.add_fault(fault)
    result = connect(user)
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert said.startswith(f"Error: {sentence}")
    assert browser.last_page.sentence == said.removeprefix("Error: ")
    assert stored("mira")[0] is None


def test_a_wrong_secret_in_one_process_blocks_no_other(connect, mira, simulator, engine):
    simulator.add_fault(InvalidClient())
    connect(consent_as("mira"))
    with engine.connect() as conn:
        blocked = conn.scalars(select(t.api_budget.c.blocked_until)).all()
    assert set(blocked) <= {None}


def test_a_callback_of_another_attempt_is_refused_and_the_right_one_still_works(
    connect, browser, mira, stored
):
    refused: list[Page] = []

    def user(address: str) -> Page:
        home = parse_qs(urlsplit(address).query)
        back, state = home["redirect_uri"][0], home["state"][0]
        for query in (
            *("", "code=x", "code=x&state=", "code=x&state=wrong", "error=access_denied"),
            *(f"code=x&state={state}&state={state}", f"code=x&state={state}x", "state=%ff"),
        ):
            refused.append(visit(f"{back}?{query}"))
        return consent_as("mira")(address)

    result = connect(user)
    assert result.exit_code == 0, result.output
    assert {page.status for page in refused} == {400}
    assert all("state is another" in page.sentence for page in refused)
    assert result.stderr.count("does not belong to this connection") == len(refused)
    assert stored("mira")[1] == mira.refresh_token


def test_only_the_first_answer_counts_and_nothing_else_is_served(
    connect, browser, mira, kenji, stored, port
):
    others: list[int] = []

    def user(address: str) -> Page:
        home = f"http://127.0.0.1:{port}"
        others.append(visit(f"{home}/favicon.ico").status)
        others.append(visit(f"{home}/callback/../secret").status)
        others.append(visit(f"{home}/callback", Host=f"evil.example:{port}").status)
        others.append(visit(f"{home}/callback", Host=f"localhost:{port}").status)
        others.append(requests.post(f"{home}/callback", timeout=10).status_code)
        # A browser opens connections that it does not use.
        with socket.create_connection(("127.0.0.1", port)):
            page = consent_as("mira")(address)
        return page

    result = connect(user)
    assert result.exit_code == 0, result.output
    assert others == [404, 404, 421, 421, 501]
    assert stored("mira")[1] == mira.refresh_token
    with pytest.raises(OSError):  # noqa: PT011  # any: the listener has ended
        socket.create_connection(("127.0.0.1", port))


def test_a_second_callback_during_the_first_changes_nothing(
    connect, browser, mira, kenji, stored, simulator
):
    second: list[Page] = []

    def user(address: str) -> Page:
        with requests.Session() as session:
            session.trust_env = False
            backs = [
                session.get(
                    changed(address, user_id=who), allow_redirects=False, timeout=10
                ).headers["location"]
                for who in ("mira", "kenji")
            ]
            host, _, path = backs[0].removeprefix("http://").partition("/")
        address_of_listener = (host.partition(":")[0], int(host.partition(":")[2]))
        with socket.create_connection(address_of_listener) as first:
            first.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            # The first callback is accepted once its code is being redeemed.
            while not simulator.faults()[0]["hits"]:
                time.sleep(0.01)
            second.append(visit(backs[1]))
            seen = b""
            while part := first.recv(4096):
                seen += part
        return Page(200, seen.decode(), ())

    simulator.add_fault(Latency(seconds=1), endpoint="token")
    result = connect(user)
    assert result.exit_code == 0, result.output
    assert "mira (Mira Solberg) is connected" in browser.last_page.text
    assert second[0].status == 409
    assert stored("kenji")[0] is None


def test_a_port_that_is_taken_exits_2_and_says_what_to_register(connect, mira, port):
    with socket.create_server(("127.0.0.1", port)):
        result = connect(consent_as("mira"))
    assert result.exit_code == 2
    assert only_line(result).startswith(f"Error: Port {port} is taken")
    assert "http://127.0.0.1:PORT/callback" in result.stderr


def test_connect_times_out_and_names_the_address_to_register(
    connect, browser, mira, simulator, port
):
    simulator.register_redirects([f"http://127.0.0.1:{port}/another"])
    result = connect(consent_as("mira"), "--seconds", "1")
    assert browser.last_page.status == 400
    assert "Invalid redirect URI" in browser.last_page.text
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert "within 1 second" in last
    assert f"add exactly http://127.0.0.1:{port}/callback" in last


def test_without_a_browser_the_address_is_there_to_be_opened(connect, browser, mira, simulator):
    result = connect(None, "--seconds", "1")
    assert f"  {simulator.url}/authorize?" in result.stderr
    assert "open the address yourself" in result.stderr
    browser.user = consent_as("mira")
    result = connect(consent_as("mira"), "--seconds", "1", "--no-browser")
    assert browser.pages == []
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("SPOTIFY_PIPELINE_TOKEN_KEYS", "spotify-pipeline keys new"),
        ("SPOTIFY_CLIENT_ID", "SPOTIFY_CLIENT_ID"),
    ],
)
def test_missing_configuration_is_reported_before_the_browser_opens(
    connect, browser, mira, environ, variable, named
):
    environ.delenv(variable)
    result = connect(consent_as("mira"))
    assert result.exit_code == 2
    assert named in only_line(result)
    assert browser.threads == []


def test_ctrl_c_ends_it_cleanly(simulator, mira, port, environ):
    with subprocess.Popen(
        [*COMMAND, "connect", "--no-browser", "--port", str(port)],
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stderr is not None
        said = ""
        while "Ctrl-C" not in said:
            line = program.stderr.readline()
            assert line, said
            said += line
        program.send_signal(signal.SIGINT)
        _, rest = program.communicate(timeout=20)
    assert program.returncode == 130
    assert rest.strip() == "Stopped."


def test_no_code_verifier_token_or_secret_is_shown_or_written(
    connect, browser, mira, simulator, environ, tmp_path: Path
):
    codes: set[str] = set()
    said = []
    for user in (consent_as("mira"), one_scope, stale_code):
        result = connect(user)
        said.append(result.output)
        page = browser.last_page
        said.append(page.text)
        for address in page.addresses:
            codes |= set(parse_qs(urlsplit(address).query).get("code", []))
    assert len(codes) == 3
    secrets = {*codes, mira.refresh_token, simulator.client_secret, TOKEN_KEY.partition(":")[2]}
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert [secret for secret in secrets if any(secret in text for text in (*said, *written))] == []
