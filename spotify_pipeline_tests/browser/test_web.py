"""The web page in Chromium, with a running pipeline and a simulated Spotify."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import ProgrammingError

from spotify_pipeline.cli.local.dagster_processes import running_stack
from spotify_pipeline.cli.local.dev import set_up
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.process import running_simulator
from spotify_pipeline.storage.postgres.database import leave_database
from spotify_pipeline.storage.postgres.web_login import web_url
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline_tests.browser.pages import CHROMIUM, opened, own_home

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


# From right to left, with a word that is wider than a phone.
LONG_NAME = "عبد الرحمن بن محمد الموسيقي Donaudampfschifffahrtsgesellschaftskapitän"


@dataclass(frozen=True)
class Site:
    """The address of the page, the owner's engine, the simulator."""

    url: str
    engine: Engine
    simulator: Simulator


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`spotify-pipeline dev` without users: database, Dagster, the page."""
    with pytest.MonkeyPatch.context() as patch, running_simulator(listeners=3) as simulator:
        settings = own_home(patch, tmp_path_factory.mktemp("web") / "home", simulator)
        set_up(settings)
        with (
            open_pipeline(settings) as pipeline,
            running_stack(settings, with_page=True) as stack,
        ):
            assert stack.page_url
            yield Site(stack.page_url, pipeline.engine, simulator)
        leave_database(settings)


def sign_in(page: Page, site: Site, name: str) -> None:
    page.goto(site.url)
    page.get_by_text("Sign in with Spotify").first.click()
    page.get_by_text(name).click()
    page.get_by_text(f"Hello, {name}").wait_for()


def test_a_user_signs_in_syncs_shares_and_is_forgotten(site: Site, browser: Browser) -> None:
    with opened(browser, width=1100) as seen:
        page = seen.page
        sign_in(page, site, "Mira Solberg")
        page.get_by_role("button", name="Sync now").click()
        page.get_by_text("Synced. Your numbers are up to date.").wait_for()
        page.get_by_role("button", name="Sync again in").wait_for()
        with site.engine.connect() as conn:
            minutes = conn.scalar(
                text(
                    "SELECT (sum(listened_ms) + 30000) / 60000"
                    " FROM spotify_pipeline.daily_listening"
                )
            )
        assert f"{minutes:,.0f}" in page.locator("main").inner_text()
        # Private: the same answer as for a name that does not exist.
        private, unknown = (requests.get(f"{site.url}/{name}") for name in ("mira", "no-one"))
        assert (private.status_code, private.text) == (404, unknown.text)
        page.goto(f"{site.url}/settings")
        page.get_by_label("Name in the address").fill("mira")
        page.get_by_label("Anyone may see my profile").check()
        page.locator("form", has=page.get_by_label("Name in the address")).get_by_role(
            "button", name="Save"
        ).click()
        page.wait_for_url("**/settings?saved=profile*")
        public = requests.get(f"{site.url}/mira")
        assert public.status_code == 200
        assert "Mira Solberg" in public.text
        assert public.headers["Cache-Control"].startswith("public, max-age=")
        same = requests.get(f"{site.url}/mira", headers={"If-None-Match": public.headers["ETag"]})
        assert (same.status_code, same.content) == (304, b"")
        page.get_by_role("button", name="Make a link").click()
        page.wait_for_url("**/settings?saved=link*")
        link = page.locator("input[value*='/shared/']").input_value()
        assert requests.get(link).status_code == 200
        downloaded = page.request.get(f"{site.url}/settings/download")
        assert '"plays"' in downloaded.text()
        assert "sealed_" not in downloaded.text()
        page.goto(f"{site.url}/settings")
        page.get_by_label("confirm").fill("forget me")
        page.get_by_role("button", name="Delete everything").click()
        page.wait_for_load_state()
        with site.engine.connect() as conn:
            assert conn.scalar(text("SELECT count(*) FROM spotify_pipeline.users")) == 0
        page.goto(f"{site.url}/settings")
        page.get_by_text("Sign in with Spotify").first.wait_for()
        assert requests.get(link).status_code == 404
        assert requests.get(f"{site.url}/mira").status_code == 404


def test_refused_sign_ins_say_what_to_do_and_store_nothing(site: Site) -> None:
    with requests.Session() as session:
        wrong = session.get(f"{site.url}/callback", params={"state": "guessed", "code": "x"})
        assert (wrong.status_code, "sign in again" in wrong.text.lower()) == (403, True)
        asked = session.get(f"{site.url}/sign-in", allow_redirects=False)
        query = parse_qs(urlsplit(asked.headers["Location"]).query)
        assert query["scope"] == ["user-read-recently-played user-top-read"]
        assert query["code_challenge_method"] == ["S256"]
        denied = session.get(
            f"{site.url}/callback", params={"state": query["state"][0], "error": "access_denied"}
        )
        assert (denied.status_code, "You did not agree" in denied.text) == (403, True)
        # Of this browser only.
        stolen = requests.get(
            f"{site.url}/callback", params={"state": query["state"][0], "code": "x"}
        )
        assert stolen.status_code == 403
    with site.engine.connect() as conn:
        assert conn.scalar(text("SELECT count(*) FROM spotify_pipeline.users")) == 0


def test_forms_of_other_pages_other_hosts_and_unsigned_hooks_are_refused(
    site: Site, browser: Browser
) -> None:
    with opened(browser) as seen:
        sign_in(seen.page, site, "Kenji A.")
        for address in ("/sync", "/settings/forget", "/settings/disconnect", "/settings/zone"):
            refused = seen.page.request.post(f"{site.url}{address}", form={"confirm": "forget me"})
            assert refused.status == 403, address
        # Without a session there is nothing to steer.
        assert requests.post(f"{site.url}/settings/forget").url == f"{site.url}/"
    elsewhere = requests.get(site.url, headers={"Host": "evil.example"}, allow_redirects=False)
    assert elsewhere.headers["Location"].startswith(site.url)
    assert requests.post(f"{site.url}/sync", headers={"Host": "evil.example"}).status_code == 421
    assert (
        requests.post(f"{site.url}/hooks/revalidate", json={"user_ids": ["kenji"]}).status_code
        == 403
    )
    policy = requests.get(site.url).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    with site.engine.connect() as conn:
        assert conn.scalars(text("SELECT user_id FROM spotify_pipeline.users")).all() == ["kenji"]


def test_a_history_is_uploaded_and_its_receipt_has_a_fate_for_every_row(
    site: Site, browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "my_spotify_data.zip"
    with opened(browser) as seen:
        page = seen.page
        sign_in(page, site, "Kenji A.")
        since = datetime.now(UTC) - timedelta(days=30)
        path.write_bytes(site.simulator.export("kenji", format="extended", since=since))
        page.goto(f"{site.url}/settings")
        page.get_by_role("link", name="Import your history").click()
        page.get_by_label("The zip that Spotify sent you").set_input_files(path)
        page.get_by_role("button", name="Upload").click()
        page.get_by_text("What became of your upload").wait_for()
        counts = [int(text.replace(",", "")) for text in page.locator("tbody td").all_inner_texts()]
        (total,) = page.locator("tfoot td").all_inner_texts()
        assert sum(counts) == int(total.replace(",", "")) > 100
        with site.engine.connect() as conn:
            runs = conn.execute(
                text("SELECT status, rows_read FROM spotify_pipeline.history_imports")
            )
            assert runs.all() == [("succeeded", sum(counts))]
        # The receipt comes with the merge; the days are computed in the next transaction.
        known = "SELECT count(*) FROM spotify_pipeline.daily_listening WHERE basis <> 'api'"
        with site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            while not (days := conn.scalar(text(known))):
                page.wait_for_timeout(50)
        assert days > 5
        page.get_by_text("See your profile").click()
        page.get_by_role("heading", name="Kenji A.").wait_for()
        # A refusal by the server, shown without another page.
        page.goto(f"{site.url}/history")
        path.write_bytes(b"PK rubbish")
        page.get_by_label("The zip that Spotify sent you").set_input_files(path)
        page.get_by_role("button", name="Upload").click()
        page.get_by_text("my_spotify_data.zip is damaged").wait_for()
        state = seen.page.context.storage_state()
        # Of the script, and not of the refused upload or an icon of Spotify's page.
        assert [e for e in seen.errors if not e.startswith("Failed to load resource")] == []
    # Without JavaScript.
    path.write_bytes(site.simulator.export("kenji", format="account", since=since))
    context = browser.new_context(java_script_enabled=False, storage_state=state)
    page = context.new_page()
    page.goto(f"{site.url}/history")
    page.get_by_label("The zip that Spotify sent you").set_input_files(path)
    page.get_by_role("button", name="Upload").click()
    page.get_by_text("superseded").first.wait_for()
    context.close()


def name_kenji(site: Site, name: str) -> None:
    statement = text("UPDATE spotify_pipeline.users SET display_name = :n WHERE user_id = 'kenji'")
    with site.engine.begin() as conn:
        conn.execute(statement, {"n": name})


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 390)])
def test_every_page_passes_the_accessibility_check(
    site: Site, browser: Browser, scheme: str, width: int
) -> None:
    with opened(browser, scheme, width) as seen:
        sign_in(seen.page, site, "Kenji A.")
        name_kenji(site, LONG_NAME)
        for path in ("/", "/me", "/history", "/settings", "/year/2026", "/not-there"):
            seen.page.goto(f"{site.url}{path}")
            found = Axe().run(seen.page).response["violations"]
            assert [
                (path, violation["id"], violation["nodes"][0]["html"])
                for violation in found
                if violation["impact"] in ("serious", "critical")
            ] == []
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, path
        name_kenji(site, "Kenji A.")
        assert [
            url for url in seen.requests if not url.startswith((site.url, site.simulator.url))
        ] == []


def test_the_page_logs_in_as_a_member_of_the_apps_role_alone(site: Site) -> None:
    engine = create_engine(web_url(load_settings()))
    with engine.connect() as conn:
        roles = conn.scalars(
            text(
                "SELECT rolname FROM pg_roles WHERE pg_has_role(current_user, oid, 'MEMBER')"
                " AND rolname <> current_user"
            )
        ).all()
        assert roles == ["spotify_app"]
        with pytest.raises(ProgrammingError, match="permission denied"):
            conn.execute(text("SELECT * FROM spotify_pipeline.user_tokens"))
    engine.dispose()
