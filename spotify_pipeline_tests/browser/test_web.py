"""The web page in Chromium, with a running pipeline and a simulated Spotify."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import ProgrammingError

from spotify_pipeline.cli.local.dagster_processes import running_stack
from spotify_pipeline.cli.local.dev import set_up
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.database import leave_database
from spotify_pipeline.storage.postgres.roles import web_url
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline_tests.browser.pages import CHROMIUM, PATIENCE_MS, opened, own_home
from spotify_pipeline_tests.defs.dagster_cluster import stop_schedules
from spotify_pipeline_tests.expected_listening import listened_ms
from spotify_pipeline_tests.sync.pipeline_fixture import Clock, Scenario

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


# From right to left, with a word that is wider than a phone.
LONG_NAME = "عبد الرحمن بن محمد الموسيقي Donaudampfschifffahrtsgesellschaftskapitän"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Site:
    """The address of the page, and the pipeline and the simulator behind it."""

    url: str
    scenario: Scenario


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`spotify-pipeline dev` without users: database, Dagster, the page."""
    with pytest.MonkeyPatch.context() as patch, running_simulator(listeners=2) as simulator:
        settings = own_home(patch, tmp_path_factory.mktemp("web") / "home", simulator)
        set_up(settings)
        with (
            open_pipeline(settings) as pipeline,
            running_stack(settings, with_page=True) as stack,
        ):
            assert stack.page_url
            stop_schedules(stack)
            yield Site(stack.page_url, Scenario(pipeline, simulator, Clock()))
        leave_database(settings)


def sign_in(page: Page, site: Site, name: str) -> None:
    page.goto(site.url)
    page.get_by_text("Sign in with Spotify").first.click()
    page.get_by_text(name).click()
    page.get_by_text(f"Hello, {name}").wait_for()


def sync(page: Page, site: Site) -> None:
    page.goto(site.url)
    page.get_by_role("button", name="Sync now").click()
    page.get_by_text("Synced. Your numbers are up to date.").wait_for()


def assert_fine(page: Page) -> None:
    """No serious finding of axe and nothing wider than the screen, on a desktop and in the dark."""
    for scheme, width in (("dark", 390), ("light", 1100)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.set_viewport_size({"width": width, "height": 1100})
        found = Axe().run(page).response["violations"]
        assert [
            (page.url, scheme, violation["id"], violation["nodes"][0]["html"])
            for violation in found
            if violation["impact"] in ("serious", "critical")
        ] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width, page.url


def listed(html: str) -> dict[date, int]:
    """The minutes of every day in words on a page, if there are any."""
    return {
        datetime.strptime(f"{day} Z", "%d %b %Y %z").date(): int(minutes.replace(",", ""))
        for day, minutes in re.findall(
            r"<li>\w+ (\d+ \w+ \d+): (?:at least )?([\d,]+) minute", html
        )
        if minutes != "0"
    }


def recount(site: Site, zone: str) -> dict[date, int]:
    """Mira's minutes per local day, from her stored plays and without the pipeline's code."""
    p = t.plays.c
    with site.scenario.pipeline.engine.connect() as conn:
        facts = conn.execute(
            select(p.played_at, p.track_id, p.ms_played, p.duration_ms).where(p.user_id == "mira")
        ).all()
    heard: dict[date, int] = {}
    for (played_at, _), listened in listened_ms([tuple(fact) for fact in facts]).items():
        day = played_at.astimezone(ZoneInfo(zone)).date()
        heard[day] = heard.get(day, 0) + listened
    minutes = {day: (listened + 30_000) // 60_000 for day, listened in heard.items()}
    return {day: number for day, number in minutes.items() if number}


@pytest.mark.timeout(600)
def test_a_users_story_from_sign_in_to_forgetting(
    site: Site, browser: Browser, tmp_path: Path
) -> None:
    scenario, zone = site.scenario, "Pacific/Kiritimati"
    now = datetime.now(UTC)
    heard = [(now - n * DAY, f"t{n}") for n in (1, 2, 3)]
    scenario.serve_plays("mira", heard)
    cooldown = "UPDATE spotify_pipeline.settings SET request_cooldown = :c"
    scenario.execute(cooldown, c=timedelta(hours=1))
    with opened(browser, width=1100, timezone=zone) as seen:
        page = seen.page
        sign_in(page, site, "Mira Solberg")
        page.get_by_text("Nothing is known yet").wait_for()
        # Sixty clicks are one request.
        button = page.get_by_role("button", name="Sync now")
        button.evaluate("button => { for (let n = 0; n < 60; n++) button.click(); }")
        page.get_by_text("Synced. Your numbers are up to date.").wait_for()
        assert len(scenario.rows(t.sync_requests, "mira")) == 1
        page.get_by_role("button", name=re.compile("Sync again in 59:[0-5][0-9]")).wait_for()
        page.wait_for_function(
            "was => document.querySelector('[data-sync] button').textContent !== was",
            arg=page.locator("[data-sync] button").inner_text(),
        )
        assert_fine(page)
        days = listed(page.content())
        assert days == recount(site, "UTC") == dict.fromkeys((at.date() for at, _ in heard), 3)
        assert page.locator("h1").inner_text().startswith("9")

        # Private: the same answer as for a name that does not exist.
        private, unknown = (requests.get(f"{site.url}/{name}") for name in ("mira", "no-one"))
        assert (private.status_code, private.text) == (404, unknown.text)
        page.goto(f"{site.url}/settings")
        page.get_by_label("Name in the address").fill("mira")
        page.get_by_label("Anyone may see my profile").check()
        page.locator("#profile").get_by_role("button", name="Save").click()
        page.wait_for_url("**/settings?saved=profile*")
        public = requests.get(f"{site.url}/mira")
        assert "Mira Solberg" in public.text
        assert listed(public.text) == days
        # Known are the seven days that Spotify shows.
        assert re.search(r"35\d earlier days: not known, before the first sync", public.text)
        assert public.headers["Cache-Control"].startswith("public, max-age=")
        same = requests.get(f"{site.url}/mira", headers={"If-None-Match": public.headers["ETag"]})
        assert (same.status_code, same.content) == (304, b"")

        # The hook is called before a request is answered.
        scenario.execute(cooldown, c=timedelta())
        scenario.serve_plays("mira", [(now - timedelta(hours=2), "t0"), *heard])
        page.goto(site.url)
        page.get_by_role("button", name="Sync now").click()
        asked = t.sync_requests
        while [row["status"] for row in scenario.rows(asked, "mira")] != ["succeeded"] * 2:
            page.wait_for_timeout(20)
        replaced = requests.get(f"{site.url}/mira").text
        assert listed(replaced) == recount(site, "UTC") != days
        page.get_by_text("Synced. Your numbers are up to date.").wait_for()

        for end in ("expire", "revoke"):
            page.goto(f"{site.url}/settings")
            page.get_by_role("button", name="Make a link").click()
            page.wait_for_url("**/settings?saved=link*")
            link = page.get_by_label("Share link").input_value()
            shared = requests.get(link)
            assert listed(shared.text) == listed(replaced)
            assert shared.headers["Cache-Control"] == "private, no-store"
            if end == "expire":
                assert_fine(page)
                scenario.execute(
                    "UPDATE spotify_pipeline.profiles SET share_expires_at = clock_timestamp()"
                )
            else:
                page.get_by_role("button", name="Revoke the link").click()
                page.get_by_role("button", name="Make a link").wait_for()
            gone = requests.get(link)
            assert (gone.status_code, gone.text) == (404, unknown.text)

        without = browser.new_context(
            java_script_enabled=False, storage_state=page.context.storage_state()
        ).new_page()
        without.set_default_timeout(PATIENCE_MS)
        upload(page, without, site, tmp_path / "my_spotify_data.zip", now - 30 * DAY)
        page.get_by_text("See your profile").click()
        page.get_by_role("heading", name="Mira Solberg").wait_for()
        assert listed(page.content()) == recount(site, "UTC")

        # The browser is in another time zone than the one that was guessed at sign-in.
        page.goto(site.url)
        page.get_by_role("link", name="Change it").click()
        box = page.get_by_role("combobox", name="Time zone")
        box.fill("kiritimati")
        page.locator("#zone").get_by_role("button", name="Save").click()
        page.get_by_role("alert").filter(has_text=zone).wait_for()
        page.get_by_role("button", name="Use it").click()
        assert box.input_value() == zone
        page.locator("#zone").get_by_role("button", name="Save").click()
        page.wait_for_url("**/settings?saved=zone*")
        before = listed(page.request.get(f"{site.url}/me").text())
        sync(without, site)
        without.context.close()
        page.goto(f"{site.url}/me")
        assert_fine(page)
        assert listed(page.content()) == recount(site, zone) != before
        page.goto(f"{site.url}/year")
        assert_fine(page)

        page.goto(f"{site.url}/settings")
        with page.expect_download() as saved:
            page.get_by_role("link", name="Download everything").click()
        document = Path(saved.value.path()).read_text()
        stored = {(row["played_at"], row["track_id"]) for row in scenario.rows(t.plays, "mira")}
        assert stored == {
            (datetime.fromisoformat(play["played_at"]), play["track_id"])
            for play in json.loads(document)["plays"]
        }
        assert "sealed_" not in document

        page.get_by_label("confirm").fill("forget you")
        page.get_by_role("button", name="Delete everything").click()
        page.get_by_text("Nothing was deleted").wait_for()
        page.get_by_label("confirm").fill("forget me")
        page.get_by_role("button", name="Delete everything").click()
        page.get_by_role("heading", name="You are forgotten").wait_for()
        assert requests.get(f"{site.url}/mira").text == unknown.text
        assert {
            table.name
            for table in t.metadata.sorted_tables
            if "user_id" in table.c and scenario.rows(table, "mira")
        } <= {"forgotten"}
        page.goto(f"{site.url}/settings")
        page.get_by_text("Sign in with Spotify").first.wait_for()
        # Of our script, and not of the refused upload or an icon of Spotify's page.
        assert [e for e in seen.errors if not e.startswith("Failed to load resource")] == []
        assert [
            url
            for url in seen.requests
            if not url.startswith((site.url, scenario.simulator.url, "data:", "blob:"))
        ] == []


def upload(page: Page, without: Page, site: Site, path: Path, since: datetime) -> None:
    """Mira uploads her history, in the end `without` JavaScript; each receipt has every row."""
    simulator = site.scenario.simulator
    path.write_bytes(simulator.export("mira", format="extended", since=since).archive)
    page.goto(f"{site.url}/settings")
    page.get_by_role("link", name="Import your history").click()
    send(page, path)
    page.get_by_text("What became of your upload").wait_for()
    assert_fine(page)
    counts = [int(text.replace(",", "")) for text in page.locator("tbody td").all_inner_texts()]
    (total,) = page.locator("tfoot td").all_inner_texts()
    assert sum(counts) == int(total.replace(",", "")) > 100
    (receipt,) = site.scenario.rows(t.history_imports)
    assert (receipt["status"], receipt["rows_read"]) == ("succeeded", sum(counts))
    # A refusal by the server, shown without another page.
    page.goto(f"{site.url}/history")
    damaged = path.with_stem("damaged")
    damaged.write_bytes(b"PK rubbish")
    send(page, damaged)
    page.get_by_text("damaged.zip is damaged").wait_for()
    # Without JavaScript.
    path.write_bytes(simulator.export("mira", format="account", since=since).archive)
    without.goto(f"{site.url}/history")
    send(without, path)
    without.get_by_text("superseded").first.wait_for()
    # The receipt comes with the merge; the days are computed in the next transaction.
    while site.scenario.row(t.users, "mira")["days_stale"] or not any(
        row["basis"] != "api" for row in site.scenario.rows(t.daily_listening, "mira")
    ):
        page.wait_for_timeout(50)


def send(page: Page, path: Path) -> None:
    page.get_by_label("The zip that Spotify sent you").set_input_files(path)
    page.get_by_role("button", name="Upload").click()


def test_refused_sign_ins_say_what_to_do_and_store_nothing(site: Site) -> None:
    before = site.scenario.rows(t.users)
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
    assert site.scenario.rows(t.users) == before


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
    assert site.scenario.row(t.users, "kenji")["connection"] == "connected"


def test_the_button_waits_for_spotify_and_says_why_a_sync_failed(
    site: Site, browser: Browser
) -> None:
    scenario = site.scenario
    scenario.serve_plays("kenji", [])
    scenario.execute("UPDATE spotify_pipeline.settings SET request_cooldown = '0'")
    block = "UPDATE spotify_pipeline.api_budget SET blocked_until = {}, blocked_reason = {}"
    with opened(browser, width=1100) as seen:
        page = seen.page
        sign_in(page, site, "Kenji A.")
        scenario.execute(block.format("now() + interval '1 hour'", "'RATE'"))
        page.get_by_role("button", name="Sync now").click()
        page.get_by_role("button", name="Waiting for Spotify…").wait_for()
        page.get_by_text("Your sync is queued").wait_for()
        scenario.execute(block.format("NULL", "NULL"))
        page.get_by_text("Synced. Your numbers are up to date.").wait_for()
        # The page is served by a process that does not answer now.
        page.route("**/sync", lambda route: route.abort())
        page.get_by_role("button", name="Sync now").click()
        page.get_by_text("The page did not answer. Try again.").wait_for()
        page.unroute("**/sync")
        # The user takes the permission back at Spotify.
        scenario.simulator.revoke("kenji")
        page.get_by_role("button", name="Sync now").click()
        page.get_by_text("Spotify no longer lets us in.").wait_for()
        assert_fine(page)
        page.get_by_role("link", name="Reconnect Spotify").click()
        page.get_by_text("Kenji A.").click()
        page.get_by_role("button", name="Sync now").wait_for()


def test_every_page_passes_the_accessibility_check(site: Site, browser: Browser) -> None:
    with opened(browser) as seen:
        page = seen.page
        # Signed out; a refused sign-in; what does not exist.
        for path in ("/", "/callback", "/not-there"):
            page.goto(f"{site.url}{path}")
            assert_fine(page)
        sign_in(page, site, "Kenji A.")
        site.scenario.execute(
            "UPDATE spotify_pipeline.users SET display_name = :n WHERE user_id = 'kenji'",
            n=LONG_NAME,
        )
        for path in ("/", "/me", "/history", "/settings", "/year/2026"):
            page.goto(f"{site.url}{path}")
            assert_fine(page)
        site.scenario.execute(
            "UPDATE spotify_pipeline.users SET display_name = 'Kenji A.' WHERE user_id = 'kenji'"
        )


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
