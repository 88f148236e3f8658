"""`users show`: the same facts in the terminal and on one page, whatever a name consists of."""

import contextlib
import os
import re
import stat
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, text, update

from spotify_pipeline.domain.personality.definition import METRICS, TAGS
from spotify_pipeline.domain.portrait import Day, by_weeks, level, minutes_by_hour, month_starts
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.home import private_file
from spotify_pipeline.portrait.meanings import MEANINGS, meanings
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import add_top

EVIL = "<script>alert(1)</script>\"' onload=x &amp; 🎵 \u202eevil\u202c שלום\x1b[2J"
NOW = datetime.now(UTC)
TODAY = NOW.date()


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, its texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]


@pytest.fixture
def mira(run, engine: Engine) -> None:
    """A listener in UTC: a cover of the last ten days, two days with plays, lists, personality."""
    assert run("users", "add", "mira", "--timezone", "UTC", "--display-name", EVIL).exit_code == 0
    with engine.begin() as conn:
        conn.execute(
            insert(t.coverage).values(
                user_id="mira", covered_from=NOW - timedelta(days=10), covered_to=NOW
            )
        )
        conn.execute(update(t.sync_state).values(plays_fetched_at=NOW))
        for back, minutes in ((1, 60), (2, 400)):
            conn.execute(
                insert(t.daily_listening).values(
                    user_id="mira",
                    date=TODAY - timedelta(days=back),
                    minutes=minutes,
                    listened_ms=minutes * 60_000,
                    plays=20,
                    unique_tracks=9,
                    unique_artists=7,
                    completeness="complete" if back == 2 else "at_least",
                )
            )
        conn.execute(
            insert(t.tracks).values(
                spotify_id="song", name="Song", duration_ms=600_000, artist_ids=["a0"]
            )
        )
        conn.execute(
            insert(t.plays).values(
                user_id="mira", played_at=NOW - timedelta(days=2), track_id="song", source="api"
            )
        )
        for rank, name in enumerate((EVIL, "Second", "Third"), 1):
            add_top(conn, "artists", "mira", rank, f"a{rank}", name=name, fetched_at=NOW)
        conn.execute(
            insert(t.top_list_versions).values(
                user_id="mira",
                kind="artists",
                time_range="short_term",
                valid_from=NOW - timedelta(days=30),
                spotify_ids=["a2", "a1"],
            )
        )
        conn.execute(
            insert(t.music_personality).values(
                user_id="mira",
                window_start=TODAY - timedelta(days=27),
                window_end=TODAY,
                play_count=40,
                night_share=0.043,
                peak_hour=23.9999,
                reasons={"repeat_share": "needs 50 plays, has 40"},
                tags=["Night Owl"],
                definition_version=1,
            )
        )
        conn.execute(
            insert(t.listening_gaps).values(
                user_id="mira",
                gap_start=NOW - timedelta(days=20),
                gap_end=NOW - timedelta(days=19),
                detected_at=NOW,
            )
        )


@pytest.fixture
def page(mira, run, tmp_path: Path) -> Page:
    file = tmp_path / "mira.html"
    assert run("users", "show", "mira", "--html", str(file)).stdout == f"Wrote {file}.\n"
    return Page(file.read_text(encoding="utf-8"))


def test_the_terminal_shows_calendar_hours_movement_and_meaning(mira, run) -> None:
    shown = run("users", "show", "mira").stdout
    lines = shown.splitlines()
    weekday = f"{TODAY - timedelta(days=2):%a} "
    assert "█" in next(line for line in lines if line.startswith(weekday))
    assert re.search(r"Second +▼ 1$|Second .*▼ 1", shown)
    assert re.search(r"Third .*new", shown)
    assert "4.3 %" in shown
    assert "4.3 % of your plays were between midnight and six in the morning." in shown
    assert "needs 50 plays, has 40" in shown
    assert "1 gap" in shown
    assert "\x1b" not in shown


def test_the_page_has_everything_and_loads_nothing(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    policies = [a["content"] for _, a in page.elements if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert [a for _, a in page.elements if {"src", "href", "onload", "style"} & a.keys()] == []
    headings = ("Minutes per day", "The last 7 days, in minutes", "Hours of the day", "Top artists")
    for heading in (*headings, "Top tracks", "Music personality", "How much is known"):
        assert heading in page.text
    assert "url(" not in page.text.replace("url(#hatch)", "")
    assert "@import" not in page.text


def test_hostile_names_are_escaped_as_text(page: Page) -> None:
    clean = EVIL.replace("\u202e", "\ufffd").replace("\u202c", "\ufffd").replace("\x1b", "\ufffd")
    # The title, the heading, and the top artist.
    assert page.text.count(clean) == 3
    # Names of right-to-left scripts turn nothing around them.
    assert sum(tag == "bdi" for tag, _ in page.elements) >= 4


def test_unknown_values_never_look_like_zero(page: Page) -> None:
    titles = page.text
    quiet, unknown = TODAY - timedelta(days=5), TODAY - timedelta(days=15)
    assert f"{quiet:%a} {quiet.day} {quiet:%b %Y}: 0 minutes" in titles
    assert f"{unknown:%a} {unknown.day} {unknown:%b %Y}: not known" in titles
    assert "at least 60 minutes" in titles
    # 26 weeks, of which 8 to 9 whole days are known to be complete or hold plays.
    assert len(page.of_class("unknown")) > 150
    assert 6 <= len(page.of_class("level-0")) <= 9


def test_every_drawing_has_a_text_alternative(page: Page) -> None:
    drawings = [a for tag, a in page.elements if tag == "svg" and "aria-hidden" not in a]
    assert len(drawings) >= 3
    assert all(a.get("role") == "img" and a.get("aria-label") for a in drawings)
    assert ("html", "en") in [(tag, a.get("lang")) for tag, a in page.elements]


def test_movement_has_a_text_alternative(page: Page) -> None:
    labels = [a.get("aria-label") for a in page.of_class("moved")]
    assert labels[:2] == ["up 1 rank", "down 1 rank"]
    assert "new" in page.text


def test_a_user_without_data_has_a_page(run, tmp_path: Path) -> None:
    run("users", "add", "newcomer", "--timezone", "Pacific/Apia")
    file = tmp_path / "new.html"
    assert run("users", "show", "newcomer", "--html", str(file)).exit_code == 0
    page = Page(file.read_text(encoding="utf-8"))
    assert "Spotify has not sent a list yet." in page.text
    assert page.of_class("level-0") == page.of_class("level-0")[:1]


def test_a_file_that_cannot_be_written_is_one_sentence(mira, run, tmp_path: Path) -> None:
    result = run("users", "show", "mira", "--html", str(tmp_path / "nowhere" / "x.html"))
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    full = run("users", "show", "mira", "--html", "/dev/full")
    assert (full.exit_code, full.stderr) == (
        1,
        "Error: /dev/full could not be written: No space left on device.\n",
    )
    assert run("users", "show", "mira", "--json", "--html", "x").exit_code == 2


def test_a_page_has_mode_0600_and_is_replaced_atomically(mira, run, tmp_path: Path) -> None:
    file, link = tmp_path / "mira.html", tmp_path / "link.html"
    file.write_text("the last one")
    link.symlink_to(file)
    with contextlib.suppress(ZeroDivisionError), private_file(link) as half:
        half.write(b"half a page")
        half.flush()
        raise ZeroDivisionError
    assert file.read_text() == "the last one"
    before = os.umask(0)
    try:
        run("users", "show", "mira", "--html", str(link))
    finally:
        os.umask(before)
    assert "</html>" in file.read_text(encoding="utf-8")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob("*")) == ["link.html", "mira.html"]


def test_the_users_whom_a_check_counts_are_listed(mira, run, engine: Engine) -> None:
    run("users", "add", "ben")
    with engine.begin() as conn:
        conn.execute(
            text(
                "UPDATE spotify_pipeline.users SET connection = 'needs_reauth'"
                " WHERE user_id = 'ben'"
            )
        )
    listed = run("users", "list", "--check", "no_user_has_to_reconnect").stdout
    assert "ben" in listed
    assert "mira" not in listed
    assert run("users", "list", "--check", "no_duplicate_plays").stdout.endswith("0 users.\n")
    assert run("users", "list", "--check", "no_such_check").exit_code == 2


def test_every_metric_has_a_name_and_a_sentence_around_its_value() -> None:
    metrics = {metric.column for metric in METRICS if not metric.column.endswith("_id")}
    assert metrics == MEANINGS.keys()
    for _, sentence in MEANINGS.values():
        assert "{value}" in sentence or "{artists}" in sentence
    names = {name for name, _ in MEANINGS.values()}
    assert not names & {tag.name for tag in TAGS}


def test_rounding_never_changes_the_meaning_of_a_value() -> None:
    row = {metric.column: None for metric in METRICS}
    row |= {"reasons": {}, "night_share": 0.004, "weekend_share": 0.0, "peak_hour": 23.9999}
    row |= {"longest_streak": 1200, "longest_streak_artist_id": "a", "effective_artists": 3.6}
    known = list(meanings(row, {"a": "Band"}))
    shown = {metric.metric: metric.value for metric in known}
    sentences = {metric.metric: metric.sentence for metric in known}
    assert shown["night_share"] == "0.4 %"
    assert shown["weekend_share"] == "0 %"
    assert shown["peak_hour"] == "0:00"
    assert shown["longest_streak"] == "1,200 days, Band"
    assert shown["effective_artists"] == "4"
    assert shown["repeat_share"] is None
    assert sentences["repeat_share"] == "Not known."
    assert sentences["longest_streak"].endswith("lasted 1,200 days.")
    assert "you played 4 artists equally often" in sentences["effective_artists"]


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(None, None), (0, 0), (1, 1), (29, 1), (30, 2), (59, 2), (60, 3), (119, 3), (120, 4)],
)
def test_the_levels_of_the_calendar(minutes: int | None, expected: int | None) -> None:
    assert level(minutes) == expected


def test_a_week_begins_on_monday_and_a_month_over_its_first_week() -> None:
    start = date(2026, 3, 2)
    days = [Day(start + timedelta(days=n), n, n, "complete") for n in range(37)]
    weeks = by_weeks(days)
    assert [len(week) for week in weeks] == [7] * 6
    assert all(day.date.weekday() == row for week in weeks for row, day in enumerate(week) if day)
    assert weeks[-1][1] == days[-1]
    assert weeks[-1][2] is None
    assert month_starts(weeks) == {0: start, 5: date(2026, 4, 6)}
    # Two names side by side could not be read: the longer month keeps its own.
    days = [Day(date(2026, 2, 23) + timedelta(days=n), n, n, "complete") for n in range(21)]
    assert month_starts(by_weeks(days)) == {1: date(2026, 3, 2)}


def test_the_hours_are_those_of_the_zone_on_both_sides_of_a_change_of_clocks() -> None:
    # 29 March 2026 in Oslo: 01:00 UTC is 03:00; the day before 01:00 UTC was 02:00.
    at = [datetime(2026, 3, day, 1, tzinfo=UTC).timestamp() for day in (28, 29)]
    hours = minutes_by_hour([(int(a // 900), 60_000) for a in at], check_zone("Europe/Oslo"))
    assert {hour: m for hour, m in enumerate(hours) if m} == {2: 1, 3: 1}
    # A quarter of an hour that belongs to another hour than in UTC.
    quarter = int(datetime(2026, 3, 28, 0, 15, tzinfo=UTC).timestamp() // 900)
    kathmandu = minutes_by_hour([(quarter, 60_000)], check_zone("Asia/Kathmandu"))
    assert kathmandu.index(1) == 6
