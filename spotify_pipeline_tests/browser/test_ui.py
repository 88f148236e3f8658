"""What a data engineer sees of the graph and of a user's partition."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from spotify_pipeline.cli.stack import Stack, running_stack
from spotify_pipeline.defs.running import opened_instance, sync_one
from spotify_pipeline.domain.sealing import seal
from spotify_pipeline.domain.steps import STEPS
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.process import running_simulator
from spotify_pipeline.storage.accounts import connect_user, register_user
from spotify_pipeline.storage.database import leave_database
from spotify_pipeline.sync.pipeline import open_pipeline

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A UI over one listener whose partition has been materialized."""
    with pytest.MonkeyPatch.context() as patch, running_simulator(listeners=1) as simulator:
        for name in ("SPOTIFY_PIPELINE_DATABASE_URL", "DAGSTER_PG_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("SPOTIFY_PIPELINE_HOME", str(tmp_path_factory.mktemp("ui") / "home"))
        patch.setenv("DAGSTER_HOME", os.environ.get("DAGSTER_HOME", ""))
        for name, value in simulator.environment.items():
            patch.setenv(name, value)
        settings = load_settings()
        (listener,) = simulator.listeners()
        with open_pipeline(settings) as pipeline, pipeline.engine.begin() as conn:
            key_id = pipeline.keyring.current_id
            register_user(conn, listener.user_id, listener.timezone, listener.display_name)
            connect_user(
                conn,
                listener.user_id,
                client_id=simulator.client_id,
                sealed_refresh_token=seal(
                    pipeline.keyring.public_key(key_id), listener.user_id, listener.refresh_token
                ),
                key_id=key_id,
                scopes=("user-read-recently-played", "user-top-read"),
                authorized_at=pipeline.now(),
            )
        with opened_instance(settings) as instance:
            assert sync_one(instance, listener.user_id).success
        with running_stack(settings) as running:
            yield running
        leave_database(settings)


def page(url: str, profile: Path) -> str:
    """The page as Chromium has drawn it, as HTML."""
    assert CHROMIUM is not None
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
        *("--window-size=1700,1400", "--virtual-time-budget=20000", f"--user-data-dir={profile}"),
    ]
    drawn = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", url], capture_output=True, check=True, timeout=120
    )
    return drawn.stdout.decode()


def test_the_graph_lists_every_asset_of_the_contract(stack: Stack, tmp_path: Path) -> None:
    drawn = page(f"{stack.url}/assets", tmp_path)
    # The catalog writes a key as "top_artists / short_term"; folders are shown by their first part.
    assert {name for name in (step.split("/")[0] for step in STEPS) if name not in drawn} == set()


def test_a_partition_shows_that_it_is_materialized_and_its_row_count(
    stack: Stack, tmp_path: Path
) -> None:
    drawn = page(f"{stack.url}/assets/daily_listening?view=partitions&partition=mira", tmp_path)
    assert "mira" in drawn
    assert "Materialized" in drawn
    assert "dagster/partition_row_count" in drawn
