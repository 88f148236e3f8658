"""Pages in Chromium, with their console messages and network requests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from spotify_pipeline.settings import Settings, load_settings
from spotify_pipeline.simulator.control import Simulator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Works without a graphics card or user namespaces, and without background network calls.
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
# Time-out for rendering on a busy machine.
PATIENCE_MS = 60_000


@dataclass
class Seen:
    """A page with its console messages and requests."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def own_home(patch: pytest.MonkeyPatch, home: Path, simulator: Simulator) -> Settings:
    """Settings of an embedded database in this home, with the simulator as Spotify."""
    for name in ("SPOTIFY_PIPELINE_DATABASE_URL", "DAGSTER_PG_URL"):
        patch.delenv(name, raising=False)
    patch.setenv("SPOTIFY_PIPELINE_HOME", str(home))
    patch.setenv("DAGSTER_HOME", os.environ.get("DAGSTER_HOME", ""))
    for name, value in simulator.environment.items():
        patch.setenv(name, value)
    return load_settings()


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*OPTIONS, *options], env={**os.environ}
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, scheme: str = "light", width: int = 1700, timezone: str = "UTC"
) -> Iterator[Seen]:
    """An empty page; `scheme` is the user's preference, light or dark."""
    context = browser.new_context(
        timezone_id=timezone,
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 1100},
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    seen = Seen(page)
    page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    try:
        yield seen
    finally:
        context.close()
