"""A user connects in a real browser: Chromium opens Spotify's page, agrees or refuses."""

import re
import shutil
from collections.abc import Callable, Iterator
from threading import Thread

import pytest
from click.testing import Result
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import select

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.faults.refusals import Forbidden
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.admin.connect import DENIED, PREMIUM
from spotify_pipeline_tests.cli.browser_user import changed, free_port
from spotify_pipeline_tests.cli.conftest import _simulator, environ, process, run, simulator

# Fixtures of the connect command's tests.
__all__ = ["_simulator", "environ", "process", "run", "simulator"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
Act = Callable[[Page], object]
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def mira(simulator: Simulator) -> Simulator:
    """Two listeners at Spotify whom the pipeline does not know."""
    simulator.clear_faults()
    simulator.register_redirects(None)
    simulator.add_listener("mira", "Europe/Oslo", display_name="Mira Solberg")
    simulator.add_listener("kenji", "Asia/Tokyo", display_name="Kenji A.")
    return simulator


@pytest.fixture
def connect(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, chromium: Browser
) -> Iterator[Callable[..., Result]]:
    """Runs the command in a thread and lets Chromium act on the address that it opens."""
    page = chromium.new_page()
    page.set_default_timeout(MINUTE_MS)

    def connect(act: Act, *arguments: str, port: int | None = None) -> Result:
        opened: list[str] = []
        monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
        results: list[Result] = []
        command = ["connect", "--port", str(port or free_port()), *arguments]
        thread = Thread(target=lambda: results.append(run(*command)))
        thread.start()
        while not opened and thread.is_alive():
            thread.join(0.05)
        if opened:
            page.goto(opened[0])
            act(page)
        thread.join(60)
        return results[0]

    yield connect
    page.close()


def agree(who: str) -> Act:
    return lambda page: (page.get_by_role("link", name=who).click(), ended(page))


def ended(page: Page) -> str:
    """The last sentence on the page."""
    expect(page.get_by_role("heading")).to_have_text(re.compile(r"Connected|Not connected"))
    return page.locator("p").inner_text()


def accounts(engine: object) -> dict[str, str]:
    with engine.connect() as conn:  # type: ignore[attr-defined]
        rows = conn.execute(select(t.users.c.user_id, t.users.c.connection))
        return {row.user_id: row.connection for row in rows}


def test_choosing_an_account_connects_it_and_the_page_says_so(connect, mira, engine) -> None:
    seen: list[str] = []

    def act(page: Page) -> None:
        page.on("console", lambda message: seen.append(message.text))
        page.get_by_role("link", name="Mira Solberg").click()
        seen.append(ended(page))

    result = connect(act, "--timezone", "Europe/Oslo")
    assert result.exit_code == 0, result.output
    assert "mira (Mira Solberg) is connected to Spotify. You can close this page." in seen
    assert accounts(engine) == {"mira": "connected"}
    # At most the favicon's 404: the page needs nothing that its policy blocks.
    assert not any("Content Security Policy" in line for line in seen)


def test_a_refused_consent_page_says_why_nothing_is_connected(connect, mira, engine) -> None:
    result = connect(agree("Nobody: refuse"))
    assert result.exit_code == 1
    assert DENIED in result.stderr
    assert accounts(engine) == {}


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("not_allowlisted", WHAT_TO_DO[ErrorCode.NOT_ALLOWLISTED]),
        ("not_premium", PREMIUM),
    ],
)
def test_a_refusal_by_spotify_is_on_the_page_in_the_same_words(
    connect, mira, engine, reason, sentence
) -> None:
    mira.add_fault(Forbidden(reason=reason))
    seen: list[str] = []
    result = connect(
        lambda page: (
            page.get_by_role("link", name="Mira Solberg").click(),
            seen.append(ended(page)),
        )
    )
    assert result.exit_code == 1
    assert seen == [sentence]
    assert sentence in result.stderr
    assert accounts(engine) == {}


def test_a_pasted_address_of_another_attempt_is_refused_and_the_right_one_still_works(
    connect, mira, engine
) -> None:
    seen: list[str] = []

    def act(page: Page) -> None:
        right = page.url
        page.goto(changed(right, state="of-yesterday"))
        page.get_by_role("link", name="Mira Solberg").click()
        seen.append(ended(page))
        page.goto(right)
        page.get_by_role("link", name="Mira Solberg").click()
        seen.append(ended(page))

    result = connect(act)
    assert result.exit_code == 0, result.output
    assert "state is another" in seen[0]
    assert seen[1].startswith("mira (Mira Solberg) is connected")


def test_a_redirect_that_is_not_registered_is_spotifys_page_and_our_sentence(connect, mira) -> None:
    port = free_port()
    mira.register_redirects(["http://127.0.0.1:1/callback"])
    result = connect(
        lambda page: expect(page.locator("body")).to_contain_text("Invalid redirect URI"),
        *("--seconds", "1"),
        port=port,
    )
    assert result.exit_code == 1
    assert f"add exactly http://127.0.0.1:{port}/callback" in result.stderr


def test_a_second_spotify_account_does_not_take_over_a_user(connect, mira, engine) -> None:
    assert connect(agree("Mira Solberg"), "app-17").exit_code == 0
    result = connect(agree("Kenji A."), "app-17")
    assert result.exit_code == 1
    assert "another Spotify account" in result.stderr
    assert accounts(engine) == {"app-17": "connected"}
