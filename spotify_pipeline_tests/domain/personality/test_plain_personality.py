"""The vectorized personality equals the one by loops and dicts, on random users."""

import os
from datetime import timedelta
from random import Random

import pandas as pd
import pytest

from spotify_pipeline.domain.listening.days import (
    daily_listening,
    is_counted,
    local_today,
)
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality.compute import PersonalityInputs, music_personality
from spotify_pipeline_tests.domain.builders import (
    ZONES,
    local_dates,
    play,
    plays_frame,
    records,
    utc,
)
from spotify_pipeline_tests.domain.personality.plain_personality import Listener, plain_personality

NOW = utc("2026-11-20 20:00")
LISTENERS = 1_000 if os.environ.get("SOAK") else 100
AT_ONCE = 100


def listener(number: int) -> Listener:
    """A random user with much or little data, and with favourite hours, artists and tracks."""
    dice = Random(number)
    listener = Listener(dice.choice(ZONES), NOW)
    taste = dice.choice([1, 3, 30, 120])
    habit = (dice.uniform(0, 24), dice.choice([1, 4, 12]))
    for days, size in ((33, dice.choice([0, 20, 60, 150, 300])), (240, dice.choice([0, 250, 500]))):
        for _ in range(size):
            at = NOW - timedelta(days=dice.randrange(days), hours=dice.gauss(*habit))
            artist = int(taste * dice.random() ** 2) + (taste // 3 if days == 33 else 0)
            listener.plays.append(
                play(
                    min(at, NOW).replace(microsecond=dice.randrange(1000) * 1000),
                    track_id=f"t{artist}.{dice.randrange(5)}",
                    artist_id=f"a{artist}",
                    ms_played=dice.choice([None, None, None, 29_999, 30_000, 90_000]),
                    release_date=dice.choice(
                        ["2026-09-01", "2026-05-20", "2019-02-30", "2020", None]
                    ),
                )
            )
    share = dice.choice([0.1, 0.6, 1])
    today = NOW.date() + timedelta(days=1)
    listener.observed = {today - timedelta(days=n) for n in range(260) if dice.random() < share} - {
        today - timedelta(days=n) for n in range(dice.choice([0, 0, 20]))
    }
    for time_range in ("short_term", "medium_term", "long_term"):
        if dice.random() < 0.2:
            continue
        artists = dice.sample(range(70), dice.choice([10, 20, 50]))
        age = timedelta(days=dice.choice([0, 20, 35, 36]))
        genres = [None, [], ["pop"], ["pop", "rock"], ["jazz", "jazz"]][: dice.choice([3, 5, 5])]
        ratings = dice.choice([[None, 10, 99], [5, 30], [80, 90]])
        listener.lists[time_range] = (
            NOW - age,
            [(f"a{n}", dice.choice(genres), dice.choice(ratings)) for n in artists],
        )
    return listener


def by_frames(listeners: dict[str, Listener]) -> dict[str, dict[str, object]]:
    """The package's result, from frames like those of storage."""
    zones = {name: listener.zone for name, listener in listeners.items()}
    today = local_today(NOW, zones)
    plays = plays_frame(
        [row | {"user_id": name} for name, listener in listeners.items() for row in listener.plays]
    )
    days = local_dates(plays, zones)
    earlier = []
    for name, listener in listeners.items():
        first, last = definition.earlier(today[name])
        then = plays[(plays["user_id"] == name) & days.between(first, last) & is_counted(plays)]
        observed = sum(first <= day <= last for day in listener.observed)
        earlier.append((name, sorted(set(then["artist_id"])), len(then), observed))
    lists = [
        (name, time_range, rank, artist, genres, popularity, fetched_at)
        for name, listener in listeners.items()
        for time_range, (fetched_at, entries) in listener.lists.items()
        for rank, (artist, genres, popularity) in enumerate(entries, start=1)
    ]
    list_columns = ["user_id", "time_range", "rank", "spotify_id", "genres", "popularity"]
    rows = music_personality(
        PersonalityInputs(
            now=NOW,
            zones=zones,
            plays=plays,
            days=daily_listening(plays, zones),
            top_artists=pd.DataFrame(lists, columns=[*list_columns, "fetched_at"]),
            earlier=pd.DataFrame(
                earlier, columns=["user_id", "artist_ids", "plays", "observed_days"]
            ),
            observed=pd.DataFrame(
                [(name, day) for name, listener in listeners.items() for day in listener.observed],
                columns=["user_id", "date"],
            ),
        )
    )
    return {str(row["user_id"]): row for row in records(rows)}


@pytest.mark.parametrize("start", range(0, LISTENERS, AT_ONCE))
def test_vectorized_metrics_equal_a_plain_loop(start: int) -> None:
    listeners = {f"u{n}": listener(n) for n in range(start, start + AT_ONCE)}
    rows = by_frames(listeners)
    known = set()
    for name, one in listeners.items():
        for metric, value in plain_personality(one).items():
            found = rows[name][metric]
            if isinstance(value, float):
                assert found == pytest.approx(value, rel=1e-9, abs=1e-9), (name, metric)
            else:
                assert found == value, (name, metric)
            known |= {metric} if value else set()
            known |= {f"no {metric}"} if value is None else set()
    # Each metric is known for some users, and each is missing for others if it can be.
    metrics = {metric.column for metric in definition.METRICS}
    assert known >= metrics
    assert known >= {f"no {metric}" for metric in metrics - {"unique_artists"}}
