"""What the simulator hands out is read as its books say, row by row and file by file."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import get_args
from zipfile import ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotify_pipeline.exports.reader import ExportFile, ExportRow, parse_row, read_exports
from spotify_pipeline.simulator.control import Simulator, SimulatorError
from spotify_pipeline.simulator.music.catalogue import Catalogue
from spotify_pipeline.simulator.music.exports import (
    Era,
    ExportedFile,
    Exporter,
    ExportFate,
    ExportFormat,
    ExportOddities,
    zipped,
)
from spotify_pipeline.simulator.music.feed import Feed
from spotify_pipeline.simulator.music.listeners import Listener, to_ms
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.server import running_simulator

NOW = dt.datetime(2026, 3, 4, 12, tzinfo=dt.UTC)
CATALOGUE = Catalogue(3)
PLAYS = {"play", "short", "repeated"}
# Often enough that a week has every fate.
MANY = ExportOddities(
    pauses=0.3,
    relinked=0.2,
    videos=0.1,
    short=2,
    silent=0.3,
    incognito=0.4,
    podcasts=0.4,
    audiobooks=0.3,
    local=0.3,
    unknown=0.4,
    repeats=3,
    unsorted=0.7,
    broken=1,
)
OFFLINE = Oddities(offline=0.3, late_uploads=0.5)


def exporter(seed: int, era: Era = "2024", odd: ExportOddities = MANY) -> Exporter:
    """Small files, so that a week has several."""
    listener = Listener(CATALOGUE, seed, "ida", "Europe/Oslo")
    return Exporter(Feed(listener, OFFLINE), odd, era, rows_per_file=150)


def export(
    seed: int, form: ExportFormat, era: Era = "2024", odd: ExportOddities = MANY
) -> list[ExportedFile]:
    """A week of one listener."""
    return exporter(seed, era, odd).files(form, to_ms(NOW - dt.timedelta(days=7)), to_ms(NOW))


def read(folder: Path) -> Iterator[tuple[ExportFile, list[ExportRow]]]:
    for file in read_exports([folder], now=NOW, include_incognito=False):
        yield file, list(file.rows())


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    form=st.sampled_from(get_args(ExportFormat)),
    era=st.sampled_from(get_args(Era)),
)
def test_every_row_of_an_export_is_read_with_its_fate(
    tmp_path_factory: pytest.TempPathFactory, seed: int, form: ExportFormat, era: Era
) -> None:
    """Plays, in order and with equal values; all others counted; nothing read twice or lost."""
    folder = tmp_path_factory.mktemp("export")
    files = export(seed, form, era)
    ZipFile(BytesIO(zipped(files))).extractall(folder)
    books = {f"{folder.name}/{file.path}": file.rows for file in files if file.rows}
    assert {file.name for file, _ in read(folder)} == set(books)
    for file, rows in read(folder):
        expected = books[file.name]
        assert file.rows_read == len(expected) == file.counts.total() + len(rows)
        assert file.counts == Counter(row.fate for row in expected if row.fate not in PLAYS)
        assert [row.number for row in rows] == [
            index for index, exported in enumerate(expected) if exported.fate in PLAYS
        ]
        for row in rows:
            written = expected[row.number].row
            if form == "account":
                assert (row.track_id, row.album_name) == (None, None)
                assert f"{row.ended_at:%Y-%m-%d %H:%M}" == written["endTime"]
                assert (row.track_name, row.artist_name, row.ms_played) == (
                    written["trackName"],
                    written["artistName"],
                    written["msPlayed"],
                )
            else:
                assert f"spotify:track:{row.track_id}" == written["spotify_track_uri"]
                assert f"{row.ended_at:%Y-%m-%dT%H:%M:%SZ}" == written["ts"]
                assert (row.track_name, row.artist_name, row.album_name, row.ms_played) == (
                    written["master_metadata_track_name"],
                    written["master_metadata_album_artist_name"],
                    written["master_metadata_album_album_name"],
                    written["ms_played"],
                )


def test_an_export_has_every_uploaded_play_of_the_life_once_and_every_fate() -> None:
    """Whatever the feed does with it; an offline play that is not uploaded yet is in no export."""
    waiting = 0
    for seed in range(4):
        rows = [row for file in export(seed, "extended") for row in file.rows]
        exported = [row.played_ms for row in rows if row.played_ms and row.fate != "repeated"]
        life = exporter(seed).feed.entries(to_ms(NOW) - 7 * 86_400_000, to_ms(NOW))
        uploaded = {entry.play.end_ms for entry in life if (entry.uploaded_ms or 0) <= to_ms(NOW)}
        assert sorted(exported) == sorted(uploaded)
        waiting += len(life) - len(uploaded)
        assert {row.fate for row in rows} == set(get_args(ExportFate))
    assert waiting


def test_both_formats_show_one_life() -> None:
    """Equal times to the minute, lengths and names; only the id is missing."""

    def plays(form: ExportFormat) -> dict[int, tuple[object, ...]]:
        names = {
            "account": ("endTime", "trackName", "artistName", "msPlayed"),
            "extended": (
                "ts",
                "master_metadata_track_name",
                "master_metadata_album_artist_name",
                "ms_played",
            ),
        }[form]
        return {
            row.played_ms: (row.row[names[0]][:16].replace("T", " "), *map(row.row.get, names[1:]))
            for file in export(5, form)
            for row in file.rows
            if row.played_ms
        }

    assert plays("extended") == plays("account")


def test_offline_rows_say_when_they_began() -> None:
    """In seconds or milliseconds; their own time is hours later."""
    lateness = [
        row.ended_at - row.offline_started_at - dt.timedelta(milliseconds=row.ms_played)
        for row in _rows(export(5, "extended"))
        if row.offline_started_at is not None
    ]
    assert len(lateness) > 20
    assert min(lateness) > dt.timedelta(seconds=-1)
    assert max(lateness) > dt.timedelta(hours=5)


def test_an_ideal_export_has_only_plays_in_order() -> None:
    files = export(5, "extended", odd=ExportOddities.none())
    assert {row.fate for file in files for row in file.rows} == {"play"}
    times = [row.row["ts"] for file in files for row in file.rows]
    assert times == sorted(times)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(seed=3, now=NOW) as running:
        running.add_listener("ida", "Europe/Oslo", oddities=OFFLINE)
        yield running


@pytest.mark.parametrize("form", get_args(ExportFormat))
def test_the_control_api_serves_the_export_and_its_books(
    simulator: Simulator, tmp_path: Path, form: ExportFormat
) -> None:
    """The same bytes every time, and the truth of each row."""
    week = NOW - dt.timedelta(days=7)
    options = {"format": form, "since": week, "oddities": MANY, "rows_per_file": 150}
    export = simulator.export("ida", **options)
    assert export == simulator.export("ida", **options)
    (tmp_path / "my_spotify_data.zip").write_bytes(export.archive)
    fates = {(f"my_spotify_data.zip/{line.file}", line.index): line for line in export.books}
    [*files] = read_exports([tmp_path / "my_spotify_data.zip"], now=NOW, include_incognito=False)
    rows = {(row.file, row.number): row for file in files for row in file.rows()}
    assert set(rows) == {key for key, line in fates.items() if line.fate in PLAYS}
    assert sum(file.rows_read for file in files) == len(export.books)
    played = {play.played_at: play for play in simulator.ledger("ida", week)}
    for key, row in rows.items():
        truth = fates[key].played_at and played[fates[key].played_at]
        if truth:
            assert (row.track_name, row.artist_name) == (truth.track_name, truth.artist_name)
            assert row.ms_played <= truth.heard_ms


def test_an_unknown_format_or_listener_is_refused(simulator: Simulator) -> None:
    with pytest.raises(SimulatorError, match=r"'csv': .* 'extended' or 'account'"):
        simulator.export("ida", format="csv")  # type: ignore[arg-type]
    with pytest.raises(SimulatorError, match="nobody"):
        simulator.export("nobody")


def _rows(files: list[ExportedFile]) -> Iterator[ExportRow]:
    for file in files:
        for index, exported in enumerate(file.rows):
            if exported.fate in PLAYS:
                _, row = parse_row(exported.row, "extended", file.path, index, NOW, False)
                assert isinstance(row, ExportRow)
                yield row
