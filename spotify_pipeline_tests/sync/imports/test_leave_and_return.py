"""A user leaves with Spotify's own format, and comes back with it."""

from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from spotify_pipeline.app import forget_user, register_user
from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.exports.archives import Upload
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline.exports.writers import write_spotify
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.export import read_account, read_extended
from spotify_pipeline.sync.import_history import import_history
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

A_DAY = timedelta(days=1)
# Times to the second and other sources on the way back; the numbers stay.
NUMBERS = (
    "date",
    "minutes",
    "listened_ms",
    "plays",
    "unique_tracks",
    "unique_artists",
    "top_track_id",
    "top_artist_id",
)


def take(scenario: Scenario, content: bytes) -> None:
    files = read_exports(
        [Upload("ada.zip", BytesIO(content))], now=scenario.clock(), include_incognito=False
    )
    import_history(scenario.pipeline, "ada", files)


def days(scenario: Scenario) -> list[list[Any]]:
    return [[row[name] for name in NUMBERS] for row in scenario.rows(t.daily_listening, "ada")]


def facts(scenario: Scenario) -> set[tuple[Any, ...]]:
    return {tuple(row.values()) for row in scenario.rows(t.imported_plays, "ada")}


def test_moving_to_another_zone_and_back_restores_the_days(
    scenario: Scenario, tmp_path: Path
) -> None:
    """Half of a fortnight from both formats, the other half from the API alone."""
    scenario.at(NOON - 5 * A_DAY)
    scenario.connect("ada", "Europe/Oslo")
    for form in ("extended", "account"):
        since = NOON - (14 if form == "account" else 10) * A_DAY
        take(scenario, scenario.simulator.export("ada", format=form, since=since).archive)
    for hours in range(0, 120, 12):
        scenario.at(NOON - 5 * A_DAY + timedelta(hours=hours))
        scenario.sync_well("ada", steps=(RECENTLY_PLAYED, "daily_listening"))
    before, known = days(scenario), facts(scenario)
    assert len(before) >= 13
    assert {row["basis"] for row in scenario.rows(t.daily_listening, "ada")} >= {"api", "export"}
    with scenario.pipeline.engine.begin() as conn:
        left = BytesIO()
        write_spotify(left, read_extended(conn, "ada"), read_account(conn, "ada"))
        forget_user(conn, "ada")
        register_user(conn, "ada", "Europe/Oslo", None)
    take(scenario, left.getvalue())
    assert days(scenario) == before
    assert known <= facts(scenario)
