"""The picture of a user's listening: which runs show one, and what is drawn."""

import base64
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree

import dagster as dg
import pytest

from spotify_pipeline.defs import pictures
from spotify_pipeline.defs.tags import TRIGGER
from spotify_pipeline.domain.portrait import Day, Portrait, TopItem, TopList, calendar_start
from spotify_pipeline.portrait.picture import picture
from spotify_pipeline.storage.listening.portrait import read_portrait
from spotify_pipeline_tests.defs.definitions_fixture import materialize, materialized
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

# Dagster's event log keeps it, base64-encoded, for every such run.
LARGEST = 45_000


def picture_of(instance: dg.DagsterInstance, run_id: str) -> str | None:
    metadata = materialized(instance, run_id).get(("music_personality", "anna"), {})
    image = metadata.get("picture")
    assert image is None or isinstance(image, str)
    return image


@pytest.fixture
def portrait() -> Portrait:
    """Half a year of a user's days."""
    today = NOON.date()
    start = calendar_start(today)
    days = [
        Day(start + timedelta(days=n), (n * 37) % 150, 9, "complete")
        for n in range((today - start).days + 1)
    ]
    artists = TopList((TopItem("a", "Artist"),), {"a": 3})
    return Portrait(tuple(days), tuple(range(24)), artists, TopList(), None, ())


@pytest.mark.parametrize("tags", [{}, {TRIGGER: "manual"}], ids=["the UI", "a command"])
def test_a_run_of_one_user_shows_a_small_picture(
    scenario: Scenario, instance: dg.DagsterInstance, tags: dict[str, str]
) -> None:
    scenario.connect("anna")
    markdown = picture_of(instance, materialize(instance, "anna", tags=tags).run_id)
    assert markdown is not None
    head, _, data = markdown.partition("(data:image/svg+xml;base64,")
    assert head.startswith("![")
    svg = base64.b64decode(data.removesuffix(")"), validate=True)
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert len(svg) < LARGEST


def test_a_picture_that_cannot_be_drawn_fails_no_run(
    scenario: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario.connect("anna")
    monkeypatch.setattr(pictures, "picture", lambda *_: 1 / 0)
    result = materialize(instance, "anna")
    assert result.success
    assert picture_of(instance, result.run_id) is None


def test_unknown_days_do_not_look_like_silent_ones(portrait: Portrait) -> None:
    silent = tuple(replace(day, minutes=0, completeness="complete") for day in portrait.days)
    unknown = tuple(replace(day, minutes=None, completeness="unknown") for day in portrait.days)
    drawn = [picture(replace(portrait, days=days)) for days in (silent, unknown)]
    assert [svg.count('class="level-0"') for svg in drawn] == [len(portrait.days), 0]
    assert [svg.count('class="unknown"') for svg in drawn] == [0, len(portrait.days)]


@pytest.mark.parametrize(
    "name",
    ["</text><script>alert(1)</script>", "$x^2$ & <b>", "名前", "🎵", "مغني", "M" * 255, "a\nb\0c"],
)
def test_any_name_is_escaped_as_text(portrait: Portrait, name: str) -> None:
    artists = TopList((TopItem("a", name),) * 8, {"a": 3})
    svg = picture(replace(portrait, artists=artists))
    shown = [node.text or "" for node in ElementTree.fromstring(svg).iter() if node.text]
    assert sum(text[:5] == name[:5] or "\ufffd" in text for text in shown) == 8
    assert "<script" not in svg


def test_a_user_without_data_has_a_picture(portrait: Portrait) -> None:
    days = tuple(replace(day, minutes=None, completeness="unknown") for day in portrait.days)
    svg = picture(Portrait(days, (), TopList(), TopList(), None, ()))
    assert "No plays in these days." in svg
    assert "Spotify has not sent a list yet." in svg


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
    assert len(picture(busy)) < LARGEST


def test_movement_compares_with_the_list_of_four_weeks_ago(scenario: Scenario) -> None:
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
