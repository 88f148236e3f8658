"""What an import stores, and what its receipt says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spotify_pipeline.app import register_user
from spotify_pipeline.domain.import_receipt import FATES, Receipt
from spotify_pipeline.domain.outcome import REBUILT, RECENTLY_PLAYED
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.exports.archives import BadExport
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work.leases import leased
from spotify_pipeline.sync.import_history import import_history
from spotify_pipeline.sync.users import rebuild_users
from spotify_pipeline_tests.exports.rows import extended, write
from spotify_pipeline_tests.sync.imports.export_files import (
    account_row,
    extended_row,
    run_import,
    spotify_id,
)
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

A_MINUTE, AN_HOUR, A_DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
OLD = datetime(2024, 5, 1, 12, 0, 7, tzinfo=UTC)


@pytest.fixture
def ada(scenario: Scenario) -> str:
    with scenario.pipeline.engine.begin() as conn:
        register_user(conn, "ada", "Europe/Oslo", None)
    return "ada"


def fates(receipt: Receipt) -> dict[str, int]:
    assert sum(receipt.fates.values()) == receipt.rows_read
    for file in receipt.files:
        assert sum(file.fates.values()) == file.rows_read
    return {fate: number for fate, number in receipt.fates.items() if number}


def plays(scenario: Scenario) -> list[tuple[object, ...]]:
    return [
        (row["played_at"], row["track_id"], row["source"], row["ms_played"])
        for row in scenario.rows(t.plays, "ada")
    ]


LIFE = [
    extended_row(OLD, 1),
    extended_row(OLD, 1),
    extended_row(OLD + A_MINUTE, 2, 4_000),
    extended_row(OLD + 2 * A_MINUTE, 3, 0),
    extended(ts="yesterday"),
    extended_row(OLD, 4, spotify_track_uri=None, episode_name="Talk"),
    extended_row(OLD + AN_HOUR, 4, incognito_mode=True),
    extended_row(NOON + A_DAY, 5),
]


def test_every_row_has_one_fate_and_a_second_import_adds_nothing(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    receipt = run_import(scenario.pipeline, tmp_path, LIFE, [account_row(OLD, 1)])
    assert fates(receipt) == {
        "new": 1,
        "repeated": 1,
        "short": 1,
        "silent": 1,
        "malformed": 1,
        "podcast": 1,
        "incognito": 1,
        "future": 1,
        "superseded": 1,
    }
    assert plays(scenario) == [
        (OLD, spotify_id(1), "export", 180_000),
        (OLD + A_MINUTE, spotify_id(2), "export", 4_000),
    ]
    (day,) = scenario.rows(t.daily_listening, ada)
    assert (day["listened_ms"], day["plays"], day["basis"]) == (184_000, 1, "export")
    before = scenario.dump("computed_at")
    again = run_import(scenario.pipeline, tmp_path, LIFE, [account_row(OLD, 1)])
    gone = {"new", "short", "superseded"}
    assert fates(again) == {"known": 3} | {
        fate: number for fate, number in fates(receipt).items() if fate not in gone
    }
    after = scenario.dump("computed_at")
    for table in before.keys() - {"history_imports", "history_import_files", "sync_state"}:
        assert after[table] == before[table], table


def test_a_dry_run_prints_the_same_receipt_and_stores_nothing(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    before = scenario.dump()
    dry = run_import(scenario.pipeline, tmp_path, LIFE, dry_run=True)
    assert scenario.dump() == before
    assert run_import(scenario.pipeline, tmp_path, LIFE) == dry


def test_receipts_are_stored_per_file(scenario: Scenario, ada: str, tmp_path: Path) -> None:
    receipt = run_import(scenario.pipeline, tmp_path, LIFE, [account_row(OLD + A_DAY, 9)])
    stored = scenario.rows(t.history_import_files, ada)
    assert [{fate: row[fate] for fate in FATES if row[fate]} for row in stored] == [
        dict(
            sorted(((f, n) for f, n in file.fates.items() if n), key=lambda i: [*FATES].index(i[0]))
        )
        for file in receipt.files
    ]
    assert stored[0]["malformed_rows"] == [[4, "ts is not a time since 2006"]]
    whole = scenario.row(t.history_imports, ada)
    assert (whole["status"], whole["rows_read"]) == ("succeeded", 9)
    assert (whole["first_at"], whole["last_at"]) == (OLD, OLD.replace(second=0) + A_DAY)


def test_a_broken_file_imports_nothing(scenario: Scenario, ada: str, tmp_path: Path) -> None:
    before = scenario.dump()
    whole = write(tmp_path / "Streaming_History_Audio_1.json", *LIFE).read_text()
    (tmp_path / "Streaming_History_Audio_2.json").write_text(whole[:-20])
    files = read_exports([tmp_path], now=NOON, include_incognito=False)
    with pytest.raises(BadExport, match=r"Audio_2\.json is cut off"):
        import_history(scenario.pipeline, ada, files)
    assert scenario.dump() == before


def test_a_row_that_the_api_has_shown_fills_in_its_play_whichever_came_first(
    scenario: Scenario, tmp_path: Path
) -> None:
    scenario.connect("ada")
    ends = [NOON - AN_HOUR * n - timedelta(milliseconds=300) for n in (1, 2, 3)]
    rows = [
        extended_row(NOON - AN_HOUR, 1, 170_000),
        # Another id of the recording: relinked, equal by name and artist.
        extended_row(
            NOON - 2 * AN_HOUR, 2, 20_000, spotify_track_uri=f"spotify:track:{spotify_id(99)}"
        ),
        # Offline: uploaded an hour later, listed by its start.
        extended_row(
            NOON - 2 * AN_HOUR + A_MINUTE,
            3,
            60_000,
            offline=True,
            offline_timestamp=int((NOON - 3 * AN_HOUR).timestamp()),
        ),
        extended_row(NOON - 20 * AN_HOUR, 4),
    ]
    tracks: dict[str, dict[str, Any]] = {
        spotify_id(n): {"name": f"Song {n}", "artists": [{"id": f"a{n}", "name": f"Singer {n}"}]}
        for n in (1, 2, 3)
    }
    scenario.serve_plays(
        "ada", [(end, spotify_id(n)) for n, end in enumerate(ends, 1)], tracks=tracks
    )
    scenario.sync_well("ada")
    receipt = run_import(scenario.pipeline, tmp_path, rows)
    assert fates(receipt) == {"new": 1, "matched": 3}
    assert plays(scenario) == [
        (NOON - 20 * AN_HOUR, spotify_id(4), "export", 180_000),
        (ends[2], spotify_id(3), "api", 60_000),
        (ends[1], spotify_id(2), "api", 20_000),
        (ends[0], spotify_id(1), "api", 170_000),
    ]
    assert receipt.estimate is not None
    assert (receipt.estimate.estimated_ms, receipt.estimate.heard_ms) == (540_000, 430_000)
    assert {row["basis"] for row in scenario.rows(t.daily_listening, "ada")} == {"both", "export"}
    other_way = scenario.dump("computed_at", "noticed_at")
    # The other way round, for the same user in a fresh life.
    scenario.execute("DELETE FROM spotify_pipeline.users")
    scenario.execute("TRUNCATE spotify_pipeline.tracks, spotify_pipeline.artists CASCADE")
    scenario.connect("ada")
    run_import(scenario.pipeline, tmp_path, rows)
    assert len(plays(scenario)) == 4
    scenario.serve_plays(
        "ada", [(end, spotify_id(n)) for n, end in enumerate(ends, 1)], tracks=tracks
    )
    scenario.sync_well("ada")
    same = scenario.dump("computed_at", "noticed_at")
    for table in ("plays", "daily_listening", "coverage", "imported_plays", "imported_tracks"):
        assert same[table] == other_way[table], table
    for table in ("tracks", "artists"):
        assert same[table] == other_way[table], table


def test_what_another_user_shows_of_an_imported_track_arrives_with_the_night_not_with_a_quiet_poll(
    scenario: Scenario, tmp_path: Path
) -> None:
    scenario.connect("ada")
    scenario.connect("ben")
    run_import(scenario.pipeline, tmp_path, [extended_row(OLD, 1)])
    song = {"name": "Song 1", "artists": [{"id": "a1", "name": "Singer 1"}]}
    scenario.serve_plays("ada", [])
    scenario.serve_plays("ben", [(NOON - AN_HOUR, spotify_id(1))], tracks={spotify_id(1): song})
    scenario.sync_well("ben", "ada", steps=(RECENTLY_PLAYED, *REBUILT))
    assert [row["artist_id"] for row in scenario.rows(t.plays, "ada")] != ["a1"]
    scenario.sync_well("ada")
    assert [row["artist_id"] for row in scenario.rows(t.plays, "ada")] == ["a1"]
    assert [row["top_artist_id"] for row in scenario.rows(t.daily_listening, "ada")] == ["a1"]


def test_an_import_closes_the_gaps_inside_and_completes_its_days(
    scenario: Scenario, tmp_path: Path
) -> None:
    scenario.connect("ada")
    at = NOON
    for hours in (0, 24 * 10):
        at = NOON + timedelta(hours=hours)
        scenario.at(at)
        scenario.serve_plays("ada", [(at - A_MINUTE * n, "t1") for n in range(45)])
        scenario.sync_well("ada")
    (gap,) = scenario.rows(t.listening_gaps, "ada")
    assert gap["closed_at"] is None
    rows = [extended_row(NOON - AN_HOUR + 6 * AN_HOUR * n, n) for n in range(40)]
    rows.append(extended_row(at, 40))
    run_import(scenario.pipeline, tmp_path, rows)
    (gap,) = scenario.rows(t.listening_gaps, "ada")
    assert (gap["closed_by"], gap["closed_at"]) == ("import", at)
    covered = {row["basis"]: row["covered_from"] for row in scenario.rows(t.coverage, "ada")}
    assert covered["export"] == NOON - AN_HOUR
    days = {row["date"]: row["completeness"] for row in scenario.rows(t.daily_listening, "ada")}
    inner = [(NOON + A_DAY * n).date() for n in range(1, 10)]
    assert [days[date_] for date_ in inner] == ["complete"] * 9


def test_a_user_who_is_being_synced_is_refused_with_a_sentence(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    with (
        leased(scenario.pipeline.engine, [ada]),
        pytest.raises(WorkFailed, match="still going on"),
    ):
        run_import(scenario.pipeline, tmp_path, LIFE, wait_seconds=0)
    assert plays(scenario) == []


def test_account_data_gives_way_to_the_extended_history_whichever_came_first(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    minute = OLD.replace(second=0)
    account_rows = [account_row(OLD, 1), account_row(OLD, 1, 9_000), account_row(OLD + A_DAY, 2)]
    extended_rows = [extended_row(OLD, 1), extended_row(OLD + 2 * AN_HOUR, 3)]
    first = run_import(scenario.pipeline, tmp_path, account_rows)
    assert fates(first) == {"new": 2, "short": 1}
    second = run_import(scenario.pipeline, tmp_path, extended_rows)
    # The play of the row was imported before, from account data.
    assert fates(second) == {"new": 1, "known": 1}
    stored = plays(scenario)
    assert [row[0] for row in stored] == [
        # Two rows of a track in a minute differ by a millisecond.
        minute + timedelta(milliseconds=1),
        OLD,
        OLD + 2 * AN_HOUR,
        minute + A_DAY,
    ]
    scenario.execute("DELETE FROM spotify_pipeline.users")
    with scenario.pipeline.engine.begin() as conn:
        register_user(conn, "ada", "Europe/Oslo", None)
    both = run_import(scenario.pipeline, tmp_path, account_rows, extended_rows)
    assert fates(both) == {"new": 3, "short": 1, "superseded": 1}
    assert plays(scenario) == stored


def test_days_of_an_import_equal_a_rebuild(scenario: Scenario, ada: str, tmp_path: Path) -> None:
    rows = [
        extended_row(OLD + A_MINUTE * 47 * n, n % 7, 25_000 + 9_000 * (n % 9)) for n in range(90)
    ]
    run_import(scenario.pipeline, tmp_path, rows[:50])
    run_import(scenario.pipeline, tmp_path, rows[30:])
    before = scenario.rows(t.daily_listening, ada)
    rebuild_users(scenario.pipeline, [ada])
    assert scenario.rows(t.daily_listening, ada) == before
    assert sum(day["listened_ms"] for day in before) == sum(row["ms_played"] for row in rows)
    assert sum(day["plays"] for day in before) == sum(row["ms_played"] >= 30_000 for row in rows)
