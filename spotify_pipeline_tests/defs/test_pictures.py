"""The picture of a person's listening: who gets one, and what is drawn."""

import base64
import io
import struct
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest
from PIL import Image

from spotify_pipeline.defs import pictures
from spotify_pipeline.defs.tags import DISPATCH_KEY, TRIGGER
from spotify_pipeline.domain.portrait import Day, Portrait, TopItem, TopList, calendar_start
from spotify_pipeline.storage.listening.portrait import read_portrait
from spotify_pipeline_tests.defs.definitions_fixture import materialize, materialized
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

LARGEST = 40_000


def picture_of(instance: dg.DagsterInstance, run_id: str) -> str | None:
    metadata = materialized(instance, run_id).get(("music_personality", "anna"), {})
    picture = metadata.get("picture")
    assert picture is None or isinstance(picture, str)
    return picture


def png(markdown: str) -> bytes:
    """The image in the Markdown."""
    head, _, data = markdown.partition("(data:image/png;base64,")
    assert head.startswith("![")
    return base64.b64decode(data.removesuffix(")"), validate=True)


@pytest.fixture
def portrait() -> Portrait:
    """Half a year of somebody's days."""
    today = NOON.date()
    start = calendar_start(today)
    days = [
        Day(start + timedelta(days=n), (n * 37) % 150, 9, "complete")
        for n in range((today - start).days + 1)
    ]
    artists = TopList((TopItem("a", "Artist"),), {"a": 3})
    return Portrait(tuple(days), tuple(range(24)), artists, TopList(), None, ())


def test_a_run_launched_in_the_ui_shows_a_small_picture(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    picture = picture_of(instance, materialize(instance, "anna").run_id)
    assert picture is not None
    assert len(picture) <= LARGEST
    data = png(picture)
    assert struct.unpack(">II", data[16:24]) == (946, 616)


@pytest.mark.parametrize(
    "tags",
    [{DISPATCH_KEY: "request-1-1", TRIGGER: "request"}, {TRIGGER: "manual"}],
    ids=["a request", "a command"],
)
def test_other_runs_show_none(
    scenario: Scenario, instance: dg.DagsterInstance, tags: dict[str, str]
) -> None:
    scenario.connect("anna")
    result = materialize(instance, "anna", tags=tags)
    assert picture_of(instance, result.run_id) is None


def test_a_picture_that_cannot_be_drawn_fails_no_run(
    scenario: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario.connect("anna")
    monkeypatch.setattr(pictures, "draw", lambda *_: 1 / 0)
    result = materialize(instance, "anna")
    assert result.success
    assert picture_of(instance, result.run_id) is None


def test_unknown_days_do_not_look_like_silent_ones(portrait: Portrait) -> None:
    silent = tuple(replace(day, minutes=0, completeness="complete") for day in portrait.days)
    unknown = tuple(replace(day, minutes=None, completeness="unknown") for day in portrait.days)
    drawn = [
        Image.open(io.BytesIO(pictures.draw(replace(portrait, days=days)))).convert("RGB")
        for days in (silent, unknown)
    ]
    # The middle of the calendar.
    assert drawn[0].crop((300, 90, 600, 220)) != drawn[1].crop((300, 90, 600, 220))


@pytest.mark.parametrize(
    "name",
    ["$x^2$ & <b>", "名前", "🎵🎶", "مغني", "\N{COMBINING ACUTE ACCENT}" * 40, "M" * 255, "a\nb"],
)
def test_any_name_can_be_drawn(portrait: Portrait, name: str) -> None:
    artists = TopList((TopItem("a", name),) * 8, {"a": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = pictures.as_markdown(replace(portrait, artists=artists))
    assert text is not None
    assert name not in text


def test_somebody_of_whom_nothing_is_known_has_a_picture_too(portrait: Portrait) -> None:
    days = tuple(replace(day, minutes=None, completeness="unknown") for day in portrait.days)
    nobody = Portrait(days, (), TopList(), TopList(), None, ())
    text = pictures.as_markdown(nobody)
    assert text is not None
    assert len(text) <= LARGEST


def test_the_busiest_picture_is_small_enough(portrait: Portrait) -> None:
    days = tuple(replace(day, completeness="at_least") for day in portrait.days)
    names = [TopItem(str(n), "Wq%Jß§" * 5) for n in range(8)]
    ranks = {str(n): (n * 3) % 8 + 1 for n in range(8)}
    busy = replace(
        portrait,
        days=days,
        hours=tuple(range(1, 25)),
        artists=TopList(tuple(names), ranks),
    )
    text = pictures.as_markdown(busy)
    assert text is not None
    assert len(text) <= LARGEST


def test_movement_is_told_against_the_list_of_four_weeks_ago(scenario: Scenario) -> None:
    scenario.connect("anna")
    scenario.sync_well("anna")
    history = (
        "INSERT INTO spotify_pipeline.top_artists_history"
        " (user_id, time_range, valid_from, valid_to, rank, spotify_id)"
        " SELECT user_id, time_range, :since, :until, :ranks - rank, spotify_id"
        " FROM spotify_pipeline.user_top_artists"
        " WHERE user_id = 'anna' AND time_range = 'short_term' AND rank < :ranks"
    )

    def moved() -> list[int | str | None]:
        with scenario.pipeline.engine.connect() as conn:
            top = read_portrait(conn, "anna", NOON).artists
        return [top.moved(rank) for rank in range(1, len(top.items) + 1)]

    assert set(moved()) == {None}
    day = timedelta(days=1)
    # Three ranks, turned round, from five weeks to 27 days ago; later lists are not looked at.
    scenario.execute(history, since=NOON - 35 * day, until=NOON - 27 * day, ranks=4)
    scenario.execute(history, since=NOON - 27 * day, until=NOON - 20 * day, ranks=6)
    assert moved()[:5] == [2, 0, -2, "new", "new"]


def test_matplotlib_is_imported_by_drawing_only() -> None:
    code = (
        "import sys, spotify_pipeline.defs.pictures\n"
        "from spotify_pipeline.sync import users\n"
        "print([name for name in ('matplotlib', 'PIL') if name in sys.modules])\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
