"""The page of `users show --html` as a user opens it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from spotify_pipeline.domain.listening.coverage import Interval
from spotify_pipeline.domain.personality.definition import METRICS
from spotify_pipeline.domain.portrait import Day, Portrait, TopItem, TopList, calendar_start
from spotify_pipeline.portrait.page import page
from spotify_pipeline.storage.users.queries import UserStatus
from spotify_pipeline_tests.browser.pages import CHROMIUM, opened

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
EVIL = "<img src=x onerror=alert(1)><script>alert(1)</script>\"'& 🎵 שלום עולם"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A page whose names contain markup and scripts."""
    status = UserStatus(
        user_id="mira",
        display_name=EVIL,
        timezone="Europe/Oslo",
        connection="connected",
        state="idle",
        plays=1,
        days=1,
        last_synced_at=NOW,
        last_error_code=None,
        last_error_message=None,
        next_due_at=NOW,
        reconnect_by=NOW,
    )
    start = calendar_start(NOW.date())
    days = [
        Day(start + timedelta(days=n), n % 150, 1, "complete")
        for n in range((NOW.date() - start).days + 1)
    ]
    days[:30] = [replace(day, minutes=None, completeness="unknown") for day in days[:30]]
    top = TopList((TopItem("a", EVIL, EVIL), TopItem("b", "B")), {"b": 1})
    personality = {metric.column: None for metric in METRICS} | {
        **{"tags": ["Explorer"], "reasons": {}, "play_count": 50},
        **{"window_start": days[-28].date, "window_end": NOW.date(), "longest_streak": 3},
        "longest_streak_artist_id": "a",
    }
    gaps = (Interval(NOW - timedelta(days=2), NOW - timedelta(days=1)),)
    portrait = Portrait(tuple(days), tuple(range(24)), top, top, personality, gaps, {"a": EVIL})
    path = tmp_path / "mira.html"
    path.write_text(page(status, portrait, NOW), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_console_errors_and_requests(
    browser: Browser, file: Path, scheme: str
) -> None:
    with opened(browser, scheme) as seen:
        seen.page.goto(file.as_uri())
        seen.page.wait_for_load_state("networkidle")
        assert seen.page.locator("h1").inner_text() == EVIL
        assert seen.requests == [file.as_uri()]
        assert seen.errors == []


def contrast(one: str, other: str) -> float:
    """WCAG contrast of two colours in Chromium's notation: rgb(1, 2, 3)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast(browser: Browser, file: Path, scheme: str) -> None:
    with opened(browser, scheme) as seen:
        seen.page.goto(file.as_uri())

        def colour(selector: str, name: str = "color") -> str:
            style = f"element => getComputedStyle(element)['{name}']"
            return str(seen.page.locator(selector).first.evaluate(style))

        paper = colour("body", "background-color")
        card = colour("section", "background-color")
        assert contrast(colour("h1"), paper) >= 7
        assert contrast(colour("header .faint"), paper) >= 4.5
        assert contrast(colour(".tag"), colour(".tag", "background-color")) >= 4.5
        for selector in ("h2", "section .small", "td.value", ".moved", "summary"):
            assert contrast(colour(selector), card) >= 4.5
        assert contrast(colour("svg text.small", "fill"), card) >= 4.5


def test_the_page_fits_a_phone(browser: Browser, file: Path) -> None:
    with opened(browser, width=390) as seen:
        seen.page.goto(file.as_uri())
        widths: Callable[[str], object] = seen.page.evaluate
        assert widths("document.documentElement.scrollWidth") == 390


def test_the_calendar_opens_at_its_newest_week_on_a_phone(browser: Browser, file: Path) -> None:
    with opened(browser, width=390) as seen:
        seen.page.goto(file.as_uri())
        newest = seen.page.locator(".calendar rect").last.bounding_box()
        oldest = seen.page.locator(".calendar rect").first.bounding_box()
        assert newest is not None
        assert oldest is not None
        assert oldest["x"] < 0 < newest["x"] < 390
