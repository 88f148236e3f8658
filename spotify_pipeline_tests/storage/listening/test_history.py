"""Whole histories in parts: every play once, whatever its id, however many there are."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pandas as pd
import pytest
from sqlalchemy import Connection, insert

from spotify_pipeline.domain.listening.days import daily_listening, reading_window
from spotify_pipeline.domain.model import Artist, Track
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.listening.counters import read_counts
from spotify_pipeline.storage.listening.history import parts_of_history, read_history
from spotify_pipeline.storage.listening.plays import read_plays
from spotify_pipeline.sync.days import refresh_days
from spotify_pipeline.sync.plays import StoredUser

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)
# Texts that a reader of CSV could take for nothing, or for two.
TRACKS = ("NA", "null", 'a "b", c', "Ü 1", "1e5")
SIZES = {"anna": 90, "bert": 7, "null": 3, "çem": 0}


@pytest.fixture
def history(connection: Connection) -> Connection:
    """Anna's 90 plays are 5 days apart; of the others there are a few."""
    save_artists(connection, [Artist(f"by {name}", name) for name in TRACKS])
    save_tracks(
        connection,
        [Track(name, name, 1000 + n, (f"by {name}",)) for n, name in enumerate(TRACKS)],
    )
    for user_id, size in SIZES.items():
        connection.execute(insert(t.users).values(user_id=user_id, timezone="Pacific/Apia"))
        rows = [
            {
                "user_id": user_id,
                "played_at": NOW - n * timedelta(days=5, milliseconds=1),
                "track_id": TRACKS[n % len(TRACKS)],
                "source": "api" if n % 2 else "export",
                "ms_played": None if n % 2 else n * 1000,
            }
            for n in range(size)
        ]
        if rows:
            connection.execute(insert(t.plays), rows)
    return connection


def test_small_histories_share_a_part_and_a_large_one_has_several(history: Connection) -> None:
    parts = list(parts_of_history(history, list(SIZES), plays=20))
    assert {user_id for part in parts for user_id in part} == set(SIZES)
    assert [part for part in parts if "bert" in part] == [{"bert": None, "null": None, "çem": None}]
    spans = [part["anna"] for part in parts if "anna" in part]
    assert len(spans) > 3
    for (_, end), (begin, _) in pairwise(spans):
        assert begin == end + timedelta(days=1)


def test_parts_hold_every_local_date_with_a_play(history: Connection) -> None:
    spans = [part["anna"] for part in parts_of_history(history, ["anna"], plays=20)]
    first = (NOW - 89 * timedelta(days=5, milliseconds=1)).date()
    assert spans[0][0] < first
    assert spans[-1][1] > date(2026, 3, 5)


def test_read_history_returns_the_plays_of_read_plays(history: Connection) -> None:
    for windows in (
        dict.fromkeys(SIZES),
        {"anna": reading_window(date(2025, 6, 1), date(2025, 7, 9)), "null": None},
        {"çem": None},
    ):
        wanted = read_plays(history, windows).drop(columns="release_date")
        frame = read_history(history, windows).astype(wanted.dtypes.to_dict())
        frame = frame.sort_values(["user_id", "played_at"], ignore_index=True)
        wanted = wanted.sort_values(["user_id", "played_at"], ignore_index=True)
        pd.testing.assert_frame_equal(frame, wanted)


@pytest.mark.parametrize("plays", [1, 20, 1000])
def test_days_rebuilt_in_parts_are_those_of_all_plays_at_once(
    history: Connection, monkeypatch: pytest.MonkeyPatch, plays: int
) -> None:
    monkeypatch.setattr(
        "spotify_pipeline.sync.compute.parts_of_history",
        lambda conn, ids: parts_of_history(conn, ids, plays=plays),
    )
    zones = dict.fromkeys(SIZES, "Pacific/Apia")
    gone = {"user_id": "anna", "date": date(2020, 1, 1), "minutes": 1, "listened_ms": 1}
    counts = dict.fromkeys(("plays", "unique_tracks", "unique_artists"), 1)
    history.execute(insert(t.daily_listening).values(**gone, **counts))
    users = [StoredUser(user_id, zone, days_stale=True) for user_id, zone in zones.items()]
    written = refresh_days(history, users, NOW)
    counts = read_counts(history, SIZES)
    new = Counter(user_id for user_id, _ in written.inserted)
    wanted = daily_listening(read_plays(history, dict.fromkeys(SIZES)), zones)
    d = t.daily_listening
    columns = [d.c[name] for name in wanted.columns]
    stored = history.execute(d.select().with_only_columns(*columns)).all()
    assert sorted(map(tuple, stored)) == sorted(wanted.itertuples(index=False, name=None))
    assert {user_id: (counts[user_id].days, new[user_id]) for user_id in SIZES} == {
        user_id: (size, size) for user_id, size in SIZES.items()
    }


def test_ids_that_look_like_numbers_are_texts(history: Connection) -> None:
    save_tracks(
        history, [Track(name, name, n + 1, ("by NA",)) for n, name in enumerate(("07", "7"))]
    )
    play = {"user_id": "çem", "source": "api"}
    rows = [{"track_id": name, "played_at": NOW - n * DAY} for n, name in enumerate(("07", "7"))]
    history.execute(insert(t.plays), [play | row for row in rows])
    plays = read_history(history, {"çem": None}).sort_values("duration_ms")
    assert [*zip(plays["track_id"], plays["duration_ms"], strict=True)] == [("07", 1), ("7", 2)]
