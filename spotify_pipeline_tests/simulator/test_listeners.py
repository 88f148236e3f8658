"""Synthetic listeners are deterministic and their statistics are realistic."""

import datetime as dt
from collections import Counter
from itertools import pairwise
from statistics import median
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST, Catalogue
from spotify_pipeline.simulator.music.listeners import (
    LISTENER_KINDS,
    SESSION_PAUSE_MS,
    SHORTEST_PLAY_MS,
    Listener,
    Play,
    first_listeners,
    from_ms,
    to_ms,
)

START = dt.datetime(2025, 3, 1, tzinfo=dt.UTC)
YEAR = dt.timedelta(days=365)
CATALOGUE = Catalogue(5)


def listener(kind: str = "heavy", zone: str = "Europe/Oslo", seed: int = 5) -> Listener:
    return Listener(CATALOGUE, seed, "somebody", zone, LISTENER_KINDS[kind])


def year_of(who: Listener) -> list[Play]:
    return who.plays(to_ms(START), to_ms(START + YEAR))


def quarter_of(who: Listener) -> list[Play]:
    return who.plays(to_ms(START), to_ms(START + YEAR / 4))


@pytest.fixture(scope="module")
def heavy_year() -> list[Play]:
    return year_of(listener())


def share_of_top(plays: list[int], most: int) -> float:
    return sum(count for _, count in Counter(plays).most_common(most)) / len(plays)


def percentile(counts: list[int], share: float) -> int:
    return sorted(counts)[int(len(counts) * share)]


def local_hours(plays: list[Play], zone: str) -> list[int]:
    return [from_ms(play.end_ms).astimezone(ZoneInfo(zone)).hour for play in plays]


def test_the_same_seed_gives_the_same_plays_and_another_seed_gives_others() -> None:
    day = (to_ms(START), to_ms(START + dt.timedelta(days=7)))
    assert listener().plays(*day) == listener().plays(*day)
    assert listener().plays(*day) != listener(seed=6).plays(*day)


@given(hours=st.lists(st.integers(0, 24 * 20), min_size=2, max_size=8))
@settings(max_examples=25, deadline=None)
def test_an_interval_asked_in_parts_gives_the_plays_of_the_whole(hours: list[int]) -> None:
    who = listener("commuter", "Australia/Lord_Howe")
    cuts = sorted(to_ms(START + dt.timedelta(hours=hour)) for hour in hours)
    parts = [play for start, end in pairwise(cuts) for play in who.plays(start, end)]
    assert parts == who.plays(cuts[0], cuts[-1])


@pytest.mark.parametrize("kind", LISTENER_KINDS)
@pytest.mark.parametrize("zone", ["America/St_Johns", "Africa/Casablanca"])
def test_plays_never_overlap_and_are_never_shorter_than_spotify_counts(
    kind: str, zone: str
) -> None:
    who = listener(kind, zone)
    plays = year_of(who)
    assert len(plays) > 400
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(plays))
    for play in plays:
        heard = play.end_ms - play.start_ms
        assert SHORTEST_PLAY_MS <= heard <= who.catalogue.duration_ms(play.track)


def test_nothing_is_played_before_it_was_released(heavy_year: list[Play]) -> None:
    for play in heavy_year[::10]:
        releases = CATALOGUE.releases(play.track // TRACKS_PER_ARTIST)
        released = releases[CATALOGUE.release_of(play.track)].date
        assert released <= from_ms(play.end_ms).date()


def test_a_heavy_year_has_as_many_plays_sessions_and_days_as_a_real_one(
    heavy_year: list[Play],
) -> None:
    zone = ZoneInfo("Europe/Oslo")
    days = Counter(from_ms(play.end_ms).astimezone(zone).date() for play in heavy_year)
    per_day = list(days.values())
    pauses = [after.start_ms - before.end_ms for before, after in pairwise(heavy_year)]
    sessions = 1 + sum(pause >= SESSION_PAUSE_MS for pause in pauses)
    hours = Counter(play.end_ms // 3_600_000 for play in heavy_year)
    assert 20_000 < len(heavy_year) < 28_000  # 23,636
    assert 355 <= len(days) <= 366  # 363
    assert 12 <= percentile(per_day, 0.1) <= 30  # 21
    assert 52 <= percentile(per_day, 0.5) <= 76  # 64
    assert 95 <= percentile(per_day, 0.9) <= 135  # 112
    assert 150 <= max(per_day) <= 260  # 214
    assert 5 <= sessions / len(days) <= 7  # 5.9
    assert 20 <= max(hours.values()) <= 36  # 32


def test_a_heavy_years_favourites_and_long_tail_are_those_of_a_real_one(
    heavy_year: list[Play],
) -> None:
    tracks = [play.track for play in heavy_year]
    artists = [track // TRACKS_PER_ARTIST for track in tracks]
    once = sum(count == 1 for count in Counter(artists).values()) / len(set(artists))
    assert 2_000 < len(set(artists)) < 3_600  # 2,612
    assert 0.3 < once < 0.5  # 0.45
    assert 0.05 < share_of_top(artists, 1) < 0.12  # 0.09
    assert 0.2 < share_of_top(artists, 10) < 0.33  # 0.25
    assert 0.48 < share_of_top(artists, 100) < 0.62  # 0.55
    assert 5_500 < len(set(tracks)) < 9_500  # 6,781
    assert 0.004 < share_of_top(tracks, 1) < 0.02  # 0.008
    assert 0.14 < share_of_top(tracks, 100) < 0.28  # 0.21


def test_repeats_of_artist_and_track_are_as_frequent_as_in_a_real_year(
    heavy_year: list[Play],
) -> None:
    pairs = [(before.track, after.track) for before, after in pairwise(heavy_year)]
    same_artist = sum(a // TRACKS_PER_ARTIST == b // TRACKS_PER_ARTIST for a, b in pairs)
    same_track = sum(a == b for a, b in pairs)
    catalogue = Catalogue(5)
    assert 0.13 < same_artist / len(pairs) < 0.21  # 0.17
    assert 0.02 < same_track / len(pairs) < 0.045  # 0.03
    lengths = [catalogue.duration_ms(play.track) for play in heavy_year]
    assert 190_000 < median(lengths) < 216_000  # 203 s


def test_albums_are_played_through_in_order(heavy_year: list[Play]) -> None:
    albums = Counter(play.context for play in heavy_year if (play.context or "").count("album"))
    followed = sum(
        after.track == before.track + 1 and after.context == before.context
        for before, after in pairwise(heavy_year)
        if before.context in albums
    )
    assert len(albums) > 50
    assert followed > 0.7 * sum(albums.values())


def test_nights_are_in_the_listeners_own_zone() -> None:
    for zone in ("Asia/Tokyo", "America/Los_Angeles"):
        hours = local_hours(quarter_of(listener("heavy", zone)), zone)
        asleep = sum(3 <= hour < 7 for hour in hours) / len(hours)
        assert asleep < 0.13
        owl = local_hours(quarter_of(listener("night_owl", zone)), zone)
        assert sum(hour < 6 for hour in owl) / len(owl) > 0.35


def test_a_commuter_rests_at_weekends_and_a_light_listener_is_silent_for_weeks() -> None:
    commuter = Counter(from_ms(play.end_ms).weekday() for play in year_of(listener("commuter")))
    assert commuter[5] + commuter[6] < 0.2 * commuter.total()
    light = year_of(listener("light"))
    longest = max(after.start_ms - before.end_ms for before, after in pairwise(light))
    assert longest > 14 * 86_400_000
    assert 600 < len(light) < 2_500  # 4,995 in 3.5 years


def test_a_new_account_has_no_plays_before_its_first_day() -> None:
    first = dt.date(2025, 6, 1)
    who = Listener(CATALOGUE, 5, "new", "UTC", since=first)
    plays = year_of(who)
    assert from_ms(plays[0].start_ms).date() >= first
    assert len(plays) > 1_000


def test_the_first_listeners_are_the_same_for_any_count() -> None:
    ten = list(first_listeners(10, seed=1))
    assert list(first_listeners(3, seed=1)) == ten[:3]
    assert len({role.user_id for role in ten}) == 10
    assert len({role.timezone for role in ten[:5]}) == 5
