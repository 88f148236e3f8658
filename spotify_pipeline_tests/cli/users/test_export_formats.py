"""Users leave with their plays in formats that other programs import."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zipfile import ZipFile

import pytest
from sqlalchemy import Engine, insert

from spotify_pipeline.domain.model import HeardPlay
from spotify_pipeline.exports.reader import ExportFile, ExportRow, read_exports
from spotify_pipeline.exports.writers import write_spotify
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.cli.conftest import Run

AT = datetime(2025, 12, 31, 23, 50, 0, 999_000, tzinfo=UTC)
TRACKS = {
    "4uLU6hMCjMI75M1A2tKUQC": {
        "name": 'Ol’ "quoted", 雨\n\'=1',
        "album_name": "Album",
        "duration_ms": 200_000,
        "isrc": "QZAAA0000001",
    },
    "1uLU6hMCjMI75M1A2tKUQC": {
        "name": "",
        "album_name": None,
        "duration_ms": None,
        "isrc": None,
    },
}
HEARD, EMPTIED = TRACKS
# End after AT, track, source, ms_played.
PLAYS = [
    (timedelta(0), HEARD, "api", None),
    (timedelta(seconds=90), HEARD, "api", None),  # capped: 90 s
    (timedelta(minutes=20), HEARD, "export", 12_345),
    (timedelta(minutes=25), HEARD, "export", 150_000),
    (timedelta(minutes=30), EMPTIED, "api", None),
]
LISTENED = [200_000, 90_000, 12_345, 150_000, 30_000]


@pytest.fixture
def mira(run: Run, engine: Engine) -> str:
    run("users", "add", "mira")
    run("users", "add", "otto")
    with engine.begin() as conn:
        conn.execute(insert(t.artists).values(spotify_id="a", name="Ayọ̀ "))
        conn.execute(
            insert(t.tracks),
            [{"spotify_id": key, "artist_ids": ["a"], **track} for key, track in TRACKS.items()],
        )
        conn.execute(
            insert(t.plays),
            [
                {
                    "user_id": user_id,
                    "played_at": AT + after,
                    "track_id": track,
                    "source": source,
                    "ms_played": ms_played,
                    "duration_ms": TRACKS[track]["duration_ms"],
                }
                for user_id in ("mira", "otto")
                for after, track, source, ms_played in PLAYS
            ],
        )
        conn.execute(
            insert(t.imported_plays),
            [
                {
                    "user_id": user_id,
                    "ended_at": (AT + after).replace(microsecond=0),
                    "track_id": track,
                    "ms_played": ms_played,
                    "source": "extended",
                }
                for user_id in ("mira", "otto")
                for after, track, source, ms_played in PLAYS
                if source == "export"
            ],
        )
    return "mira"


def export(run: Run, form: str, path: Path) -> None:
    result = run("users", "export", "mira", "--format", form, "--out", str(path))
    assert result.exit_code == 0, result.output


def histories(path: Path) -> list[ExportFile]:
    return list(read_exports([path], now=AT + timedelta(30), include_incognito=False))


def test_spotifys_own_format_is_read_back_with_equal_rows(
    run: Run, mira: str, tmp_path: Path
) -> None:
    """Every play, in the second of its end; the estimate where it is not known what was heard."""
    export(run, "spotify", tmp_path / "mira.zip")
    files = list(
        read_exports([tmp_path / "mira.zip"], now=AT + timedelta(1), include_incognito=False)
    )
    rows = [row for file in files for row in file.rows()]
    assert [file.name.rsplit("/")[-1] for file in files] == [
        "Streaming_History_Audio_2025_0.json",
        "Streaming_History_Audio_2026_0.json",
    ]
    assert not any(file.counts for file in files)
    assert rows == [
        ExportRow(
            "extended",
            (AT + after).replace(microsecond=0),
            listened_ms,
            track,
            str(TRACKS[track]["name"]),
            "Ayọ̀ ",
            TRACKS[track]["album_name"],
            None,
            row.file,
            row.number,
        )
        for row, (after, track, *_), listened_ms in zip(rows, PLAYS, LISTENED, strict=True)
    ]


def test_listenbrainz_gets_the_counted_plays_by_their_start(
    run: Run, mira: str, tmp_path: Path
) -> None:
    """A file per month, as in ListenBrainz's own export; no track without a name."""
    export(run, "listenbrainz", tmp_path / "mira.zip")
    with ZipFile(tmp_path / "mira.zip") as archive:
        listens = {
            name: [json.loads(line) for line in archive.read(name).splitlines()]
            for name in archive.namelist()
        }
    assert {name: len(lines) for name, lines in listens.items()} == {
        "listens/2025/12.jsonl": 2,
        "listens/2026/1.jsonl": 1,
    }
    assert listens["listens/2025/12.jsonl"][0] == {
        "listened_at": int((AT - timedelta(seconds=200)).timestamp()),
        "track_metadata": {
            "artist_name": "Ayọ̀ ",
            "track_name": TRACKS[HEARD]["name"],
            "release_name": "Album",
            "additional_info": {
                "submission_client": "spotify_pipeline",
                "music_service": "spotify.com",
                "spotify_id": f"https://open.spotify.com/track/{HEARD}",
                "origin_url": f"https://open.spotify.com/track/{HEARD}",
                "duration_ms": 200_000,
                "isrc": "QZAAA0000001",
            },
        },
    }


def test_a_user_without_plays_gets_a_history_without_rows(run: Run, tmp_path: Path) -> None:
    run("users", "add", "mira")
    for form in ("spotify", "listenbrainz"):
        export(run, form, tmp_path / f"{form}.zip")
        assert not ZipFile(tmp_path / f"{form}.zip").testzip()


def test_a_long_history_is_cut_into_files_as_spotify_cuts_it(tmp_path: Path) -> None:
    plays = (
        HeardPlay(AT + timedelta(minutes=n), 30_000, True, HEARD, "n", "a", None, None, None)
        for n in range(16_500)
    )
    with (tmp_path / "x.zip").open("wb") as file:
        assert write_spotify(file, plays) == 16_500
    files = list(
        read_exports([tmp_path / "x.zip"], now=AT + timedelta(30), include_incognito=False)
    )
    assert [len(list(file.rows())) for file in files] == [10, 16_000, 490]
