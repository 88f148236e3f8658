"""Retention deletes old plays where it is configured; days computed from them stay."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from spotify_pipeline.domain.listening.coverage import first_whole_day, local_day
from spotify_pipeline.domain.outcome import REBUILT
from spotify_pipeline.settings import ConfigurationError, load_settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.admin.maintenance import delete_old_plays, run_maintenance
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

KEEP = {"SPOTIFY_PIPELINE_KEEP_PLAYS_DAYS": "210"}
OSLO = ZoneInfo("Europe/Oslo")


def plays(scenario: Scenario, user_id: str = "anna") -> list[datetime]:
    return [row["played_at"] for row in scenario.rows(t.plays, user_id)]


def days(scenario: Scenario) -> dict[date, dict[str, object]]:
    kept = ("minutes", "plays", "top_track_id", "completeness")
    return {
        row["date"]: {name: row[name] for name in kept}
        for row in scenario.rows(t.daily_listening, "anna")
    }


@pytest.fixture
def keeping(open_another: Callable[..., Scenario]) -> Scenario:
    """A pipeline that keeps plays for 210 days; anna in Oslo listened 300 days ago, and since."""
    scenario = open_another(**KEEP)
    scenario.connect("anna", "Europe/Oslo", kind="heavy", since=(NOON - timedelta(days=320)).date())
    for ago in (300, 211, 210, 1):
        scenario.at(NOON - timedelta(days=ago))
        scenario.sync_well("anna")
    scenario.at(NOON)
    return scenario


def test_plays_are_cut_at_a_local_midnight_and_their_days_stay_as_they_are(
    keeping: Scenario,
) -> None:
    before, old = days(keeping), plays(keeping)
    cut = local_day((NOON - timedelta(days=210)).astimezone(OSLO).date(), OSLO).start
    assert delete_old_plays(keeping.pipeline) == sum(play < cut for play in old) > 0
    assert sorted(plays(keeping)) == sorted(play for play in old if play >= cut)
    assert days(keeping) == before
    assert keeping.row(t.users, "anna")["plays_from"] == cut


def test_a_rebuild_after_a_cut_changes_no_day(keeping: Scenario) -> None:
    before = days(keeping)
    delete_old_plays(keeping.pipeline)
    keeping.sync_well("anna", steps=REBUILT)
    assert days(keeping) == before


def test_a_zone_change_keeps_frozen_days_and_recomputes_the_others(
    keeping: Scenario,
) -> None:
    before = days(keeping)
    delete_old_plays(keeping.pipeline)
    keeping.move("anna", "Asia/Tokyo")
    keeping.sync_well("anna")
    cut = keeping.row(t.users, "anna")["plays_from"]
    first = first_whole_day(cut, ZoneInfo("Asia/Tokyo"))
    after = days(keeping)
    assert {d: v for d, v in after.items() if d < first} == {
        d: v for d, v in before.items() if d < first
    }
    counted = sum(row["plays"] for d, row in after.items() if d >= first)  # type: ignore[misc]
    assert counted == sum(
        local_day(first, ZoneInfo("Asia/Tokyo")).start <= p for p in plays(keeping)
    )


def test_plays_before_the_cut_that_spotify_still_shows_are_refused_and_counted(
    keeping: Scenario,
) -> None:
    keeping.connect("rare", "Europe/Oslo")
    old = NOON - timedelta(days=230)
    keeping.serve_plays("rare", [(old, "a"), (NOON - timedelta(days=2), "b")])
    keeping.sync_well("rare")
    assert delete_old_plays(keeping.pipeline) > 0
    before = keeping.rows(t.daily_listening, "rare")
    keeping.sync_well("rare")
    assert plays(keeping, "rare") == [NOON - timedelta(days=2)]
    assert keeping.rows(t.daily_listening, "rare") == before
    assert keeping.rows(t.fetch_log, "rare")[-1]["skipped"] == {"before_retention": 1}


def test_users_whose_days_wait_to_be_computed_lose_no_play(keeping: Scenario) -> None:
    keeping.move("anna", "Asia/Tokyo")
    old = plays(keeping)
    assert delete_old_plays(keeping.pipeline) == 0
    assert plays(keeping) == old
    # health computes them first.
    assert run_maintenance(keeping.pipeline)["plays deleted"] > 0


def test_nothing_is_deleted_by_default(scenario: Scenario) -> None:
    scenario.connect("anna")
    scenario.at(NOON - timedelta(days=4000))
    scenario.sync_well("anna")
    scenario.at(NOON)
    before = plays(scenario)
    assert run_maintenance(scenario.pipeline)["plays deleted"] == 0
    assert plays(scenario) == before


def test_keeping_fewer_days_than_the_personality_needs_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="0 or at least 210"):
        load_settings({"SPOTIFY_PIPELINE_KEEP_PLAYS_DAYS": "30"})


@pytest.mark.parametrize(
    ("zone", "cut", "first"),
    [
        ("Europe/Oslo", datetime(2026, 3, 28, 23, tzinfo=UTC), date(2026, 3, 29)),
        ("Asia/Tokyo", datetime(2026, 3, 28, 23, tzinfo=UTC), date(2026, 3, 30)),
        ("America/New_York", datetime(2026, 3, 28, 23, tzinfo=UTC), date(2026, 3, 29)),
        ("UTC", datetime(2026, 3, 28, tzinfo=UTC), date(2026, 3, 28)),
    ],
)
def test_the_first_whole_day_begins_at_the_cut_or_later(
    zone: str, cut: datetime, first: date
) -> None:
    assert first_whole_day(cut, ZoneInfo(zone)) == first
