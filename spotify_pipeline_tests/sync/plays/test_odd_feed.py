"""Ten days of a heavy listener over real HTTP, with every oddity of Spotify's feed switched on."""

from collections import defaultdict
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from spotify_pipeline.domain.outcome import DAILY_LISTENING, MUSIC_PERSONALITY, RECENTLY_PLAYED
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests import expected_listening
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

DAYS = (RECENTLY_PLAYED, DAILY_LISTENING)
ZONE = "America/St_Johns"


@pytest.mark.parametrize("hours", [1, 5])
def test_every_play_that_a_page_showed_is_stored_once_and_counted_right(
    scenario: Scenario, hours: int
) -> None:
    start = NOON - timedelta(days=10)
    scenario.at(start)
    scenario.connect(
        "anna",
        ZONE,
        since=(start - timedelta(days=2)).date(),
        longest_delay=timedelta(hours=2),
        oddities=Oddities.everything(start + timedelta(days=4)),
    )
    step = timedelta(hours=hours)
    for number in range(timedelta(days=10) // step + 1):
        scenario.at(start + number * step)
        scenario.sync_well("anna", steps=DAYS)
    ledger = scenario.simulator.ledger("anna", since=start - timedelta(days=3))
    rows = scenario.rows(t.plays, "anna")
    stored = {(row["played_at"], row["track_id"]) for row in rows}
    found: dict[datetime, list[tuple[datetime, str]]] = {}
    for play in ledger:
        shown = {(listing.played_at, listing.track_id) for listing in play.served_as}
        if shown:
            found[play.played_at] = sorted(shown & stored)
    lost = [at for at, keys in found.items() if not keys]
    doubled = [keys for keys in found.values() if len(keys) > 1]
    assert (lost, doubled) == ([], [])
    assert stored == {keys[0] for keys in found.values()}
    assert len(stored) > 300
    assert scenario.rows(t.restamped_plays, "anna")

    facts = ((r["played_at"], r["track_id"], None, r["duration_ms"]) for r in rows)
    expected: dict[date, int] = defaultdict(int)
    for (played_at, _), ms in expected_listening.listened_ms(facts).items():
        expected[played_at.astimezone(ZoneInfo(ZONE)).date()] += ms
    days = scenario.rows(t.daily_listening, "anna")
    assert {row["date"]: row["listened_ms"] for row in days} == expected

    # A complete day has every play that the feed listed in time for the first poll after it.
    complete = {row["date"] for row in days if row["completeness"] == "complete"}
    for play in ledger:
        if play.served_as or play.missing or play.played_at <= start:
            continue
        polls = -(-(play.played_at - start) // step)
        if play.published_at <= start + polls * step:
            assert play.played_at.astimezone(ZoneInfo(ZONE)).date() not in complete, play

    before = [{**row, "computed_at": None} for row in days]
    scenario.sync_well("anna", steps=(DAILY_LISTENING, MUSIC_PERSONALITY))
    after = [{**row, "computed_at": None} for row in scenario.rows(t.daily_listening, "anna")]
    assert after == before
