"""What a data engineer sees in the Dagster UI of the graph and of a user's partition."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser

from spotify_pipeline.app import register_user
from spotify_pipeline.cli.local.dagster_processes import Stack, running_stack
from spotify_pipeline.defs.build import build_defs
from spotify_pipeline.defs.in_process import check_health, opened_instance, report_pictures
from spotify_pipeline.domain.outcome import STEPS
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage.postgres.database import leave_database
from spotify_pipeline.storage.users.connection import store_connection
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline_tests.browser.pages import CHROMIUM, opened, own_home

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


HOSTILE = "<img src=x onerror=alert(1)>'\"; DROP TABLE users; ../"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A UI with a user whose partition has been materialized, and one who is not connected."""
    with pytest.MonkeyPatch.context() as patch, running_simulator(listeners=1) as simulator:
        settings = own_home(patch, tmp_path_factory.mktemp("ui") / "home", simulator)
        (listener,) = simulator.listeners()
        with open_pipeline(settings) as pipeline, pipeline.engine.begin() as conn:
            register_user(conn, listener.user_id, listener.timezone, listener.display_name)
            store_connection(
                conn,
                pipeline.keyring,
                listener.user_id,
                listener.refresh_token,
                client_id=simulator.client_id,
            )
        with opened_instance(settings) as instance:
            instance.add_dynamic_partitions("spotify_users", [listener.user_id])
            # Without tags, like a run launched in the UI.
            job = build_defs().resolve_job_def("sync_user")
            run = job.execute_in_process(instance=instance, partition_key=listener.user_id)
            assert run.success
            # Another user has disconnected since, and is synced again nevertheless.
            with open_pipeline(settings) as pipeline, pipeline.engine.begin() as conn:
                register_user(conn, HOSTILE, "UTC", HOSTILE)
            with open_pipeline(settings) as pipeline:
                report_pictures(instance, pipeline, [listener.user_id, HOSTILE])
            instance.add_dynamic_partitions("spotify_users", [HOSTILE])
            run = job.execute_in_process(instance=instance, partition_key=HOSTILE)
            assert run.success
            check_health(instance)
        with running_stack(settings) as running:
            yield running
        leave_database(settings)


def test_the_graph_shows_every_asset_of_the_contract(stack: Stack, browser: Browser) -> None:
    with opened(browser) as seen:
        seen.page.goto(f"{stack.url}/assets")
        # The catalog writes a key as "top_artists / short_term"; folders show their first part.
        for name in {step.split("/")[0] for step in STEPS}:
            seen.page.get_by_text(name).first.wait_for()


def test_a_partition_shows_its_row_count_and_its_picture(stack: Stack, browser: Browser) -> None:
    with opened(browser) as seen:
        seen.page.goto(f"{stack.url}/assets/music_personality?view=partitions&partition=mira")
        seen.page.get_by_text("dagster/partition_row_count").first.wait_for()
        assert seen.page.get_by_text("Materialized", exact=True).count()
        seen.page.goto(f"{stack.url}/assets/listening_picture?view=partitions&partition=mira")
        seen.page.get_by_text("Show Markdown").first.click()
        picture = seen.page.locator("img[src^='data:image/svg+xml']")
        picture.wait_for()
        # Rendered, not only present in the DOM.
        assert picture.evaluate("image => image.naturalWidth") > 500
        assert seen.errors == []


def test_the_checks_of_an_asset_are_listed_and_can_be_executed(
    stack: Stack, browser: Browser
) -> None:
    with opened(browser) as seen:
        seen.page.goto(f"{stack.url}/assets/record_health?view=checks")
        seen.page.get_by_text("days_sum_to_plays", exact=True).first.wait_for()
        assert seen.page.get_by_text("Execute all").count()


def test_every_check_over_all_users_is_evaluated(stack: Stack, browser: Browser) -> None:
    with opened(browser) as seen:
        seen.page.goto(f"{stack.url}/assets/record_health?view=checks")
        seen.page.get_by_text("days_sum_to_plays").first.wait_for()
        seen.page.get_by_text("Succeeded").first.wait_for()
        assert seen.page.get_by_text("Not evaluated").count() == 0


def test_a_user_who_is_not_connected_fails_nothing_and_a_hostile_id_is_plain_text(
    stack: Stack, browser: Browser
) -> None:
    with opened(browser) as seen:
        seen.page.goto(f"{stack.url}/assets/recently_played?view=partitions")
        # Hidden where the list shortens it.
        seen.page.get_by_text(HOSTILE, exact=True).first.wait_for(state="attached")
        seen.page.get_by_text("Failed (0)").first.wait_for()
        seen.page.goto(f"{stack.url}/assets/recently_played?view=events")
        seen.page.get_by_text("Spotify is not connected.").first.wait_for()


@pytest.mark.parametrize(
    "path",
    [
        "assets/daily_listening?view=partitions&partition={}",
        "assets/listening_picture?view=partitions&partition={}",
        "assets/recently_played?view=checks",
        "runs?q[]=partition:{}",
    ],
)
def test_a_hostile_id_runs_no_script_where_it_is_shown(
    stack: Stack, browser: Browser, path: str
) -> None:
    with opened(browser) as seen:
        alerts = list[str]()
        seen.page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
        seen.page.goto(f"{stack.url}/{path.format(quote(HOSTILE, safe=''))}")
        seen.page.get_by_text(HOSTILE, exact=False).first.wait_for(state="attached")
        assert seen.page.locator("img[src='x']").count() == 0
        assert alerts == []
