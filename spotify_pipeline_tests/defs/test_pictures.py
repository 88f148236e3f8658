"""The picture of a user's listening: where it is shown, and what is drawn."""

import base64
from dataclasses import replace
from datetime import datetime, timedelta
from xml.etree import ElementTree

import dagster as dg
import pytest
from sqlalchemy import Connection

from spotify_pipeline.defs import assets
from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.domain.portrait import Day, Portrait, TopItem, TopList, calendar_start
from spotify_pipeline.portrait.picture import picture
from spotify_pipeline.storage.listening.portrait import read_portrait
from spotify_pipeline_tests.defs.definitions_fixture import (
    key,
    materialize,
    staged_defs,
)
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

# Dagster's event log keeps it, base64-encoded, for every such run.
LARGEST = 45_000


def draw(instance: dg.DagsterInstance, user_id: str) -> dg.ExecuteInProcessResult:
    """Materialize the picture's partition, as from the UI."""
    instance.add_dynamic_partitions("spotify_users", [user_id])
    job = staged_defs().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        partition_key=user_id,
        asset_selection=[assets.LISTENING_PICTURE],
        raise_on_error=False,
    )


def shown(instance: dg.DagsterInstance, user_id: str) -> str | None:
    """The picture's Markdown on the partition's page."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(assets.LISTENING_PICTURE, asset_partitions=[user_id]), limit=1
    ).records
    if not records:
        return None
    event = records[0].asset_materialization
    assert event is not None
    image = event.metadata["picture"].value
    assert isinstance(image, str)
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


def test_a_run_of_one_partition_shows_a_small_picture(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.sync_well("anna")
    assert draw(instance, "anna").success
    markdown = shown(instance, "anna")
    assert markdown is not None
    head, _, data = markdown.partition("(data:image/svg+xml;base64,")
    assert head.startswith("![")
    svg = base64.b64decode(data.removesuffix(")"), validate=True)
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert len(svg) < LARGEST


def test_the_picture_stays_on_the_partition_after_later_syncs(
    scenario: Scenario, instance: dg.DagsterInstance
) -> None:
    scenario.connect("anna")
    scenario.sync_well("anna")
    draw(instance, "anna")
    drawn = shown(instance, "anna")
    result = staged_defs().resolve_job_def("sync_users").execute_in_process(instance=instance)
    assert result.success
    assert materialize(instance, "anna").success
    assert shown(instance, "anna") == drawn


def test_a_backfill_draws_the_pictures_of_all_whom_it_can(
    scenario: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user_id in ("anna", "cleo"):
        scenario.connect(user_id)
        scenario.sync_well(user_id)
    scenario.connect("ben")
    instance.add_dynamic_partitions("spotify_users", ["anna", "ben", "cleo", "nemo"])
    read = read_portrait

    def unreadable(conn: Connection, user_id: str, now: datetime) -> Portrait:
        return read(conn, user_id, now if user_id != "ben" else None)  # type: ignore[arg-type]

    monkeypatch.setattr("spotify_pipeline.storage.listening.portrait.read_portrait", unreadable)
    job = staged_defs().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        tags={
            "dagster/asset_partition_range_start": "anna",
            "dagster/asset_partition_range_end": "nemo",
        },
        asset_selection=[key(RECENTLY_PLAYED), assets.LISTENING_PICTURE],
        raise_on_error=False,
    )
    assert {user_id for user_id in ("anna", "ben", "cleo", "nemo") if shown(instance, user_id)} == {
        "anna",
        "cleo",
    }
    # All plays are stored: a picture fails no run but its own.
    assert result.success
    assert not draw(instance, "ben").success


def test_unknown_days_do_not_look_like_silent_ones(portrait: Portrait) -> None:
    silent = tuple(replace(day, minutes=0, completeness="complete") for day in portrait.days)
    unknown = tuple(replace(day, minutes=None, completeness="unknown") for day in portrait.days)
    drawn = [picture(replace(portrait, days=days)) for days in (silent, unknown)]
    # One of each is the legend's.
    assert [svg.count('class="level-0"') - 1 for svg in drawn] == [len(portrait.days), 0]
    assert [svg.count('class="unknown"') - 1 for svg in drawn] == [0, len(portrait.days)]


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
        "INSERT INTO spotify_pipeline.top_list_versions"
        " (user_id, kind, time_range, valid_from, valid_to, spotify_ids)"
        " SELECT 'anna', 'artists', 'short_term', :since, :until,"
        " array_agg(spotify_id ORDER BY rank DESC) FROM spotify_pipeline.user_top_artists"
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
