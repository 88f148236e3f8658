"""Histories are recognised by their rows, and every row gets exactly one fate."""

import io
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spotify_pipeline.exports.archives import Upload
from spotify_pipeline.exports.json_array import read_array
from spotify_pipeline.exports.reader import MALFORMED_EXPLAINED, read_exports
from spotify_pipeline_tests.exports.rows import (
    NOW,
    TRACK_ID,
    account,
    extended,
    read,
    write,
    write_zip,
)

PODCAST = {
    "spotify_track_uri": None,
    "master_metadata_track_name": None,
    "spotify_episode_uri": "spotify:episode:1",
    "episode_name": " An episode ",
}
CHAPTER = {"spotify_track_uri": None, "audiobook_uri": "spotify:show:1", "audiobook_title": "Book"}


@pytest.mark.parametrize(
    ("name", "row", "source"),
    [
        ("Streaming_History_Audio_2019-2021_3.json", extended(), "extended"),
        ("Streaming_History_Video_2018-2024.json", extended(), "extended"),
        ("Streaming_History_Audio_2024_1_de.json", extended(), "extended"),
        (
            "endsong_3.json",
            extended(
                ip_addr=..., ip_addr_decrypted="203.0.113.77", username="u", audiobook_uri=...
            ),
            "extended",
        ),
        ("StreamingHistory_music_0.json", account(), "account"),
        ("StreamingHistory0.json", account(), "account"),
        (
            "StreamingHistory_podcast_0.json",
            {**account(trackName=...), "podcastName": "P"},
            "account",
        ),
        ("anything.JSON", account(), "account"),
    ],
)
def test_a_history_of_any_year_is_recognised_by_its_rows(
    tmp_path: Path, name: str, row: dict[str, Any], source: str
) -> None:
    """By content in a file, a folder and a zip, under any name."""
    file = write(tmp_path / "data" / name, row)
    archive = write_zip(tmp_path / "my_spotify_data.zip", {f"Spotify Data/{name}": [row]})
    for path in (file, tmp_path / "data", archive):
        files, _ = read(path)
        assert [found.source for found in files] == [source]
        assert files[0].rows_read == 1


def test_an_extended_row_keeps_what_a_play_needs_and_nothing_else(tmp_path: Path) -> None:
    [file], [row] = read(write(tmp_path / "a.json", extended()))
    assert row._asdict() == {
        "source": "extended",
        "ended_at": datetime(2024, 3, 1, 12, 34, 56, tzinfo=UTC),
        "ms_played": 213_000,
        "track_id": TRACK_ID,
        "track_name": "Song",
        "artist_name": "Artist",
        "album_name": "Album",
        "offline_started_at": None,
        "file": "a.json",
        "number": 0,
    }
    assert "203.0.113" not in repr(row) + repr(file)
    assert "secret-platform" not in repr(row) + repr(file)


def test_an_account_row_has_names_and_the_minute(tmp_path: Path) -> None:
    _, [row] = read(write(tmp_path / "a.json", account()))
    assert (row.source, row.track_id, row.album_name) == ("account", None, None)
    assert (row.track_name, row.artist_name) == ("Song", "Artist")
    assert row.ended_at == datetime(2024, 3, 1, 12, 34, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row", "fate"),
    [
        (extended(**PODCAST), "podcast"),
        (extended(**PODCAST, ms_played=0), "podcast"),
        (extended(spotify_track_uri="spotify:episode:1"), "local"),
        (extended(**CHAPTER), "audiobook"),
        (extended(spotify_track_uri=None), "local"),
        (extended(spotify_track_uri=...), "local"),
        (extended(spotify_track_uri="spotify:local:a:b:c:1"), "local"),
        (extended(ms_played=0), "silent"),
        (extended(ms_played=0, incognito_mode=True), "silent"),
        (extended(ts="2026-06-01T00:05:01Z"), "future"),
        (extended(incognito_mode=True), "incognito"),
        (account(msPlayed=0), "silent"),
        ({"endTime": "2024-03-01 12:34", "podcastName": "P", "msPlayed": 5}, "podcast"),
        ({"endTime": "2024-03-01 12:34", "audiobookName": "B", "msPlayed": 5}, "audiobook"),
        (extended(ts=None), "malformed"),
        (extended(ts="2003-01-01T00:00:00Z"), "malformed"),
        (extended(ts=1_700_000_000), "malformed"),
        (extended(ts="0000-01-01T00:00:00Z"), "malformed"),
        (extended(ts="0001-01-01T00:00:00+14:00"), "malformed"),
        (extended(ts="9999-12-31T23:59:59-14:00"), "malformed"),
        (extended(ts="9999-12-31T23:59:59Z"), "future"),
        (extended(ts="2024-02-30T00:00:00Z"), "malformed"),
        (extended(ts="2024-03-01T12:34:56Z\n"), "malformed"),
        (extended(ts="٢٠٢٤-03-01T12:34:56Z"), "malformed"),
        (extended(ts="2024-03-01T12:34:56+99:99"), "malformed"),
        (account(endTime="9999-12-31 23:59"), "future"),
        (account(msPlayed=-1), "malformed"),
        (extended(ms_played=-1), "malformed"),
        (extended(ms_played=True), "malformed"),
        (extended(ms_played=1.5), "malformed"),
        (extended(ms_played="5"), "malformed"),
        (extended(ms_played=24 * 3_600_000 + 1), "malformed"),
        (extended(ms_played=10**30), "malformed"),
        (extended(ms_played=float("nan")), "malformed"),
        (extended(ms_played=float("-inf")), "malformed"),
        (
            extended(spotify_track_uri="spotify:track:" + "\N{ARABIC-INDIC DIGIT ONE}" * 22),
            "malformed",
        ),
        (extended(spotify_track_uri={"uri": "spotify:track:" + "a" * 22}), "malformed"),
        (extended(spotify_track_uri="spotify:track:short"), "malformed"),
        (extended(spotify_track_uri=7), "malformed"),
        (extended(master_metadata_track_name=["x"]), "malformed"),
        (extended(master_metadata_track_name="x" * 1001), "malformed"),
        (None, "malformed"),
        ("text", "malformed"),
        ([1], "malformed"),
        ({}, "malformed"),
    ],
)
def test_a_row_that_is_no_play_is_counted_under_its_fate(
    tmp_path: Path, row: object, fate: str
) -> None:
    play = extended() if not isinstance(row, dict) or "endTime" not in row else account()
    [file], rows = read(write(tmp_path / "a.json", play, row))
    assert [found.number for found in rows] == [0]
    assert dict(file.counts) == {fate: 1}
    assert file.rows_read == 2
    assert [index for index, _ in file.malformed] == ([1] if fate == "malformed" else [])


@pytest.mark.parametrize(
    "row",
    [
        extended(ms_played=1),
        extended(ms_played=3 * 3_600_000 + 1_800_000),
        extended(ts="2018-05-25 12:34:56 UTC"),
        extended(ts="2018-05-25 12:34:56"),
        extended(ts="2026-06-01T00:05:00Z"),
        extended(spotify_episode_uri="spotify:episode:1"),
        extended(reason_end=..., shuffle=None, offline=None, skipped=True),
        extended(master_metadata_track_name=None, master_metadata_album_artist_name=None),
        account(trackName="Unknown Track", artistName="Unknown Artist"),
    ],
)
def test_unusual_plays_are_stored(tmp_path: Path, row: dict[str, Any]) -> None:
    [file], rows = read(write(tmp_path / "a.json", row))
    assert len(rows) == file.rows_read == 1
    assert not file.counts


def test_an_offset_is_counted_to_utc_and_of_a_field_given_twice_the_last_counts(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.json", extended(ts="2024-03-01T12:34:56+05:00"))
    path.write_text(path.read_text().replace('{"ts"', '{"ts": "2030-01-01T00:00:00Z", "ts"'))
    _, [row] = read(path)
    assert row.ended_at == datetime(2024, 3, 1, 7, 34, 56, tzinfo=UTC)


def test_incognito_rows_are_plays_where_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", extended(incognito_mode=True), extended())
    assert [len(read(path, include_incognito=asked)[1]) for asked in (False, True)] == [1, 2]


@pytest.mark.parametrize(
    ("stamp", "offline", "started"),
    [
        (1_709_290_000, True, datetime(2024, 3, 1, 10, 46, 40, tzinfo=UTC)),
        (1_709_290_000_500, True, datetime(2024, 3, 1, 10, 46, 40, 500_000, tzinfo=UTC)),
        (1_709_290_000, False, None),
        (1_709_290_000, None, None),
        (0, True, None),
        (None, True, None),
        (-5, True, None),
        ("1709290000", True, None),
        (10**40, True, None),
        (1_709_390_000, True, None),  # after the end
        (1_500_000_000, True, None),  # years before it
    ],
)
def test_the_start_of_an_offline_play_is_read_in_seconds_and_milliseconds(
    tmp_path: Path, stamp: object, offline: object, started: datetime | None
) -> None:
    _, [row] = read(write(tmp_path / "a.json", extended(offline=offline, offline_timestamp=stamp)))
    assert row.offline_started_at == started


def test_names_stay_as_sent_without_what_postgres_cannot_store(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([extended(master_metadata_album_artist_name="\x00 Ayọ̀ \ud83c 🎧 ")]))
    _, [row] = read(path)
    assert row.artist_name == " Ayọ̀  🎧 "
    _, [row] = read(write(path, extended(master_metadata_album_album_name="  ")))
    assert row.album_name is None


def test_a_file_knows_what_it_spans_and_how_far_it_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        extended(ts="2024-03-02T00:00:00Z"),
        extended(ts="2024-01-01T00:00:00Z", ms_played=0),
        extended(ts="2026-07-01T00:00:00Z"),
        extended(ts="2024-04-01T00:00:00Z", **PODCAST),
    )
    [file], _ = read(path)
    assert file.first_at == datetime(2024, 1, 1, tzinfo=UTC)
    assert file.last_at == datetime(2024, 4, 1, tzinfo=UTC)
    assert file.bytes_read == file.size == path.stat().st_size
    again = len(list(file.rows()))
    assert (again, file.rows_read, file.counts.total()) == (1, 4, 3)


def test_only_the_first_hundred_malformed_rows_are_explained(tmp_path: Path) -> None:
    [file], _ = read(write(tmp_path / "a.json", extended(), *({} for _ in range(150))))
    assert file.counts["malformed"] == 150
    assert len(file.malformed) == MALFORMED_EXPLAINED


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path / "data" / "a.json", extended())
    files, _ = read(file, tmp_path / "data", tmp_path / "data" / ".." / "data" / "a.json")
    assert [found.name for found in files] == ["a.json"]


def test_files_of_one_name_in_two_folders_are_distinguished(tmp_path: Path) -> None:
    paths = [write(tmp_path / folder / "data" / "a.json", extended()) for folder in ("x", "y")]
    files, rows = read(*(path.parent for path in paths))
    assert [file.name for file in files] == ["data/a.json", "data/a.json (2)"]
    assert len({(row.file, row.number) for row in rows}) == 2


def test_a_folder_may_hold_several_archives_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in (10, 9):
        write(data / f"endsong_{number}.json", extended())
    write_zip(data / "account.zip", {"Spotify Account Data/StreamingHistory0.json": [account()]})
    files, _ = read(data)
    assert [file.name for file in files] == [
        "data/account.zip/Spotify Account Data/StreamingHistory0.json",
        "data/endsong_9.json",
        "data/endsong_10.json",
    ]


def test_files_of_other_kinds_are_passed_over_and_private_ones_never_opened(tmp_path: Path) -> None:
    """A broken Payments.json does not harm: it is not opened."""
    archive = write_zip(
        tmp_path / "a.zip",
        {
            "Spotify Account Data/Payments.json": b"\xff\x00 not JSON",
            "Spotify Account Data/Userdata.json": '{"username": "u"}',
            "Spotify Account Data/Playlist1.json": '{"playlists": []}',
            "Spotify Account Data/Other.json": '[{"a": 1}]',
            "Spotify Account Data/ReadMeFirst.pdf": "%PDF",
            "__MACOSX/._StreamingHistory0.json": b"\x00\x05",
            "Spotify Account Data/StreamingHistory0.json": [account()],
        },
    )
    files, rows = read(archive)
    assert [file.name for file in files] == ["a.zip/Spotify Account Data/StreamingHistory0.json"]
    assert len(rows) == 1


def test_an_upload_is_read_without_a_file(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"endsong_0.json": [extended(), extended()]})
    upload = Upload("from a browser.zip", io.BytesIO(archive.read_bytes()))
    archive.unlink()
    [file] = read_exports([upload], now=NOW, include_incognito=False)
    assert [row.number for row in file.rows()] == [0, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 4096])
def test_rows_are_equal_however_the_file_is_cut_into_pieces(size: int) -> None:
    values = [extended(), 123, 1.5, True, None, "ö🎧", [], {}, account(artistName='a "b", ]')]
    content = " \r\n" + json.dumps(values, ensure_ascii=False) + "\n"
    text = io.BytesIO(content.encode("utf-8-sig"))
    assert list(read_array(lambda _: text.read(size), "x")) == values


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """5,000 rows of 700 characters."""
    start = datetime(2020, 1, 1, tzinfo=UTC)
    rows = (extended(ts=(start + timedelta(minutes=number)).isoformat()) for number in range(5_000))
    [file] = read_exports([write(tmp_path / "a.json", *rows)], now=NOW, include_incognito=False)
    tracemalloc.start()
    try:
        assert sum(1 for _ in file.rows()) == 5_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000 < file.size
    finally:
        tracemalloc.stop()
