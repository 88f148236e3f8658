"""Pages in Chromium, with their console messages and network requests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Page, sync_playwright

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
def opened(browser: Browser, scheme: str = "light", width: int = 1700) -> Iterator[Seen]:
    """An empty page; `scheme` is the user's preference, light or dark."""
    context = browser.new_context(
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
