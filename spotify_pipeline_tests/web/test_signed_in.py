"""From sign-in to the end of a session, with the pipeline, its hook and a simulated Spotify."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from sqlalchemy import URL

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.faults.refusals import Body, Echo, Forbidden, ServerError
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage import tables as t
from spotify_pipeline.web import cache
from spotify_pipeline.web.sessions import ATTEMPTS, ATTEMPTS_PER_CLIENT, SIGN_IN_SECONDS, Attempts
from spotify_pipeline.web.signin import REFUSALS
from spotify_pipeline.web.site import Config
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario, environment, open_scenario
from spotify_pipeline_tests.web.conftest import SECRET, free_url, served

HOOK_SECRET = "shared with the page"
DAY = timedelta(days=1)


@dataclass
class Browser:
    """A browser's cookies, and what it does on the page."""

    config: Config
    session: requests.Session = field(default_factory=requests.Session)

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(self.config.url + path, timeout=20, **more)

    def submit(self, path: str, **fields: str) -> requests.Response:
        """Submits a form of the settings."""
        (csrf,) = set(re.findall(r'name="csrf" value="([^"]+)"', self.get("/settings").text))
        sent = {"csrf": str(csrf), **fields}
        return self.session.post(self.config.url + path, data=sent, timeout=20)

    def sign_in(self, user_id: str) -> requests.Response:
        """Agrees as this user on Spotify's page; the response of our callback or its redirect."""
        begun = self.get("/sign-in", allow_redirects=False)
        return self.session.get(f"{begun.headers['Location']}&user_id={user_id}", timeout=20)

    @property
    def cookie(self) -> str:
        return str(self.session.cookies["session"])


@dataclass
class Town:
    """The page beside the pipeline that calls its hook."""

    config: Config
    scenario: Scenario

    def browser(self) -> Browser:
        return Browser(self.config)

    def signed_in(self, user_id: str, timezone: str = "UTC") -> Browser:
        """The browser of a user of Spotify, who has signed in."""
        self.scenario.simulator.add_listener(user_id, timezone, since=datetime.now(UTC).date())
        browser = self.browser()
        assert browser.sign_in(user_id).url == f"{self.config.url}/"
        return browser

    def users(self) -> list[str]:
        return [row["user_id"] for row in self.scenario.rows(t.users)]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture
def town(database: URL, simulator: Simulator) -> Iterator[Town]:
    """The page has the rights of the app's role, and the pipeline calls its hook."""
    simulator.clear_faults()
    config = Config(
        url=free_url(),
        database_url=database.update_query_dict({"options": "-c role=spotify_app"}),
        secret=SECRET,
        client_id=simulator.client_id,
        client_secret=simulator.client_secret,
        accounts_url=simulator.url,
        api_url=simulator.url,
        hook_secret=HOOK_SECRET,
    )
    environ = environment(
        database,
        simulator,
        SPOTIFY_PIPELINE_REVALIDATE_URL=f"{config.url}/hooks/revalidate",
        SPOTIFY_PIPELINE_REVALIDATE_SECRET=HOOK_SECRET,
    )
    with open_scenario(simulator, environ) as scenario, served(config):
        scenario.clock.instant = datetime.now(UTC)
        yield Town(config, scenario)


def shows(page: str, day: date) -> bool:
    """Whether a page says of this day that a track of 3 minutes was heard; perhaps more."""
    words = f"{day:%a} {day.day} {day:%b %Y}"
    return re.search(rf"{words}: (at least )?3 minutes", page) is not None


def test_a_sync_replaces_the_cached_profile_at_once(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The page does not look for changes by itself.
    monkeypatch.setattr(cache, "CHECK_SECONDS", 3600)
    browser, visitor = town.signed_in("mira"), town.browser()
    today = datetime.now(UTC).date()
    town.scenario.serve_plays("mira", [(datetime.now(UTC) - DAY, "t1")])
    town.scenario.sync_well("mira")
    browser.submit("/settings/profile", name="mira", public="on")
    before = visitor.get("/mira").text
    assert shows(before, today - DAY)
    town.scenario.serve_plays(
        "mira", [(datetime.now(UTC) - DAY, "t1"), (datetime.now(UTC) - 2 * DAY, "t2")]
    )
    town.scenario.execute("UPDATE spotify_pipeline.users SET display_name = 'Mira the second'")
    assert visitor.get("/mira").text == before
    town.scenario.sync_well("mira")
    after = visitor.get("/mira").text
    assert "Mira the second" in after
    assert shows(after, today - 2 * DAY)


def test_a_sign_in_starts_a_new_session_and_leaving_ends_all_of_them(town: Town) -> None:
    browser = town.signed_in("mira")
    first = browser.cookie
    browser.sign_in("mira")
    assert browser.cookie != first
    for path, fields in (
        ("/settings/disconnect", {}),
        ("/settings/forget", {"words": "forget me"}),
    ):
        kept = browser.cookie
        assert browser.submit(path, **fields).status_code == 200
        old = town.browser()
        old.session.cookies.set("session", kept)
        assert old.get("/settings", allow_redirects=False).headers["Location"] == "/"
        # Nor is it alive again when the same account comes back.
        browser.sign_in("mira")
        assert old.get("/settings", allow_redirects=False).headers["Location"] == "/"
        assert browser.get("/settings", allow_redirects=False).status_code == 200


def test_a_second_tab_or_a_reload_of_the_callback_ends_on_the_start_page(town: Town) -> None:
    town.scenario.simulator.add_listener("mira", "UTC", since=datetime.now(UTC).date())
    browser, start = town.browser(), f"{town.config.url}/"
    tabs = [browser.get("/sign-in", allow_redirects=False).headers["Location"] for _ in range(2)]
    signed_in = browser.session.get(f"{tabs[0]}&user_id=mira", timeout=20)
    cookie, callback = browser.cookie, signed_in.history[-1].url
    calls = len(town.scenario.calls("token"))
    for address in (f"{tabs[1]}&user_id=mira", callback):
        assert browser.session.get(address, timeout=20).url == start
    # These signed no user in, and a browser that began no sign-in is refused.
    assert (browser.cookie, len(town.scenario.calls("token"))) == (cookie, calls)
    assert requests.get(callback, timeout=20).status_code == 403
    # A stranger's answer changes nothing in a browser that is signed in.
    town.scenario.simulator.add_listener("eve", "UTC", since=datetime.now(UTC).date())
    begun = town.browser().get("/sign-in", allow_redirects=False).headers["Location"]
    agreed = requests.get(f"{begun}&user_id=eve", timeout=20, allow_redirects=False)
    assert browser.session.get(agreed.headers["Location"], timeout=20).url == start
    assert (browser.cookie, town.users()) == (cookie, ["mira"])


def account(simulator: Simulator, user_id: str) -> None:
    simulator.add_fault(
        Body(text=json.dumps({"id": user_id, "account_id": user_id, "display_name": "X"})),
        endpoint="me",
    )


def without_a_scope(town: Town) -> None:
    token = {"access_token": "a", "refresh_token": "r", "scope": "user-top-read"}
    town.scenario.simulator.add_fault(Body(text=json.dumps(token)), endpoint="token")


PREPARED: dict[str, Callable[[Town], object]] = {
    "expired": lambda town: town.scenario.simulator.add_fault(
        Body(text='{"error": "invalid_grant"}', status=400), endpoint="token"
    ),
    "scope": without_a_scope,
    "allowlist": lambda town: town.scenario.simulator.add_fault(
        Forbidden(reason="not_allowlisted"), endpoint="me"
    ),
    "odd": lambda town: account(town.scenario.simulator, "x...y"),
    "row": lambda town: town.scenario.execute(
        "UPDATE spotify_pipeline.users SET account_id = 'of another account'"
    ),
    "spotify": lambda town: town.scenario.simulator.add_fault(ServerError(), endpoint="token"),
    "owner": lambda town: town.scenario.execute("DELETE FROM spotify_pipeline.sealing_key"),
}


@pytest.mark.parametrize("reason", PREPARED)
def test_a_refused_sign_in_says_what_to_do_and_changes_nothing(town: Town, reason: str) -> None:
    town.signed_in("kenji")
    PREPARED[reason](town)
    before = town.scenario.dump()
    refused = town.browser().sign_in("kenji")
    status, title, _ = REFUSALS[reason]
    assert refused.status_code == status
    assert f"<h1>{title}</h1>" in refused.text
    assert "Sign in with Spotify" in refused.text
    assert refused.headers["Cache-Control"] == "private, no-store"
    assert town.scenario.dump() == before


def test_another_account_is_refused_while_a_user_is_signed_in(town: Town) -> None:
    browser = town.signed_in("mira")
    town.scenario.simulator.add_listener("kenji", "UTC", since=datetime.now(UTC).date())
    assert f"<h1>{REFUSALS['another'][1]}</h1>" in browser.sign_in("kenji").text
    assert town.users() == ["mira"]


def test_only_invited_accounts_may_sign_in(town: Town) -> None:
    town.scenario.simulator.add_listener("kenji", "UTC", since=datetime.now(UTC).date())
    config = replace(town.config, url=free_url(), accounts=frozenset(["mira"]))
    with served(config):
        refused = Browser(config).sign_in("kenji")
    assert f"<h1>{REFUSALS['invited'][1]}</h1>" in refused.text
    assert town.users() == []


def test_every_refusal_is_tested() -> None:
    elsewhere = {"denied", "state"}  # in Chromium
    assert {*PREPARED, "another", "invited", "often", *elsewhere} == set(REFUSALS)


def test_a_network_that_signs_in_too_often_waits_without_a_call_to_spotify(town: Town) -> None:
    browser = town.signed_in("mira")
    for _ in range(ATTEMPTS_PER_CLIENT - 1):
        assert browser.sign_in("mira").status_code == 200
    calls = len(town.scenario.calls("token"))
    refused = browser.sign_in("mira")
    assert (refused.status_code, f"<h1>{REFUSALS['often'][1]}</h1>" in refused.text) == (429, True)
    assert 0 < int(refused.headers["Retry-After"]) <= SIGN_IN_SECONDS
    assert len(town.scenario.calls("token")) == calls
    # The session goes on.
    assert browser.get("/settings", allow_redirects=False).status_code == 200


def test_attempts_are_counted_per_network_and_in_all_for_ten_minutes() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    assert [attempts.wait("2001:db8::1") for _ in range(ATTEMPTS_PER_CLIENT)] == [0] * 10
    assert attempts.wait("2001:db8::2") == SIGN_IN_SECONDS
    assert attempts.wait("2001:db8:0:1::1") == 0
    left = ATTEMPTS - ATTEMPTS_PER_CLIENT - 1
    assert {attempts.wait(f"192.0.2.{number}") for number in range(left)} == {0}
    now = 100
    assert attempts.wait("198.51.100.1") == SIGN_IN_SECONDS - 100
    now = SIGN_IN_SECONDS
    assert attempts.wait("2001:db8::1") == 0


@pytest.mark.parametrize(
    "addresses",
    [
        [
            "192.0.2.1",
            " 192.0.2.1:1000",
            "192.0.2.1:2000",
            "::ffff:192.0.2.1",
            "[::ffff:c000:201]:3",
        ],
        ["2001:db8::1", "[2001:db8::2]", "[2001:db8::3]:443", "2001:db8::4%eth0"],
        ["", "unknown", "_hidden", "192.0.2.1.example:5"],
    ],
)
def test_every_spelling_of_a_network_is_the_same_client(addresses: list[str]) -> None:
    attempts = Attempts(lambda: 0.0)
    waits = [attempts.wait(addresses[n % len(addresses)]) for n in range(ATTEMPTS_PER_CLIENT + 1)]
    assert waits == [0] * ATTEMPTS_PER_CLIENT + [SIGN_IN_SECONDS]
    assert attempts.wait("::ffff:198.51.100.1") == attempts.wait("2001:db8:0:1::") == 0


def test_no_secret_of_a_sign_in_or_a_session_is_logged(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    browser = town.signed_in("mira")
    begun = browser.get("/sign-in", allow_redirects=False)
    (state,) = parse_qs(urlsplit(begun.headers["Location"]).query)["state"]
    link = browser.submit("/settings/share", days="1").text
    (share,) = set(re.findall(r"/shared/([^\"]+)", link))
    # Spotify repeats what it was sent, and then the database refuses everything.
    for endpoint in ("token", "me"):
        town.scenario.simulator.clear_faults()
        town.scenario.simulator.add_fault(Echo(), endpoint=endpoint)
        assert browser.sign_in("mira").status_code == 502
    town.scenario.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA spotify_pipeline FROM spotify_app")
    assert browser.get("/settings").status_code == 503
    assert "SQLSTATE 42501" in caplog.text
    token = town.scenario.simulator.tokens()
    secrets = [browser.cookie, state, share, SECRET, HOOK_SECRET, *token]
    secrets.append(str(town.config.client_secret))
    assert [secret for secret in secrets if str(secret) in caplog.text] == []
