import math
import random
import re
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotify_pipeline.domain.listening.days import daily_listening
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality.compute import PersonalityInputs, music_personality
from spotify_pipeline_tests.domain.builders import ZONES, play, plays_frame, records, utc, wall

# A Friday; the window is Saturday 2026-10-24 to Friday 2026-11-20.
NOW = utc("2026-11-20 20:00")
TODAY = NOW.date()


def day(ago: int, clock: str = "12:00") -> datetime:
    """An instant so many days before today."""
    return utc(f"{TODAY - timedelta(days=ago)} {clock}")


def spread(number: int, days: int = 25, **more: object) -> list[dict[str, object]]:
    """Plays on so many different days, one minute apart within a day."""
    return [
        play(day(n % days) + timedelta(minutes=n // days), track_id=f"t{n}", **more)
        for n in range(number)
    ]


def listed(
    time_range: str, artists: list[str], *, fetched_at: datetime = NOW, **columns: list
) -> list[dict[str, object]]:
    """One top list; `genres` and `popularity` are lists as long as `artists`."""
    return [
        {
            "user_id": "anna",
            "time_range": time_range,
            "rank": place + 1,
            "spotify_id": artist,
            "genres": columns.get("genres", [None] * len(artists))[place],
            "popularity": columns.get("popularity", [None] * len(artists))[place],
            "fetched_at": fetched_at,
        }
        for place, artist in enumerate(artists)
    ]


def ids(first: int, last: int) -> list[str]:
    return [f"a{n}" for n in range(first, last + 1)]


def inputs(
    plays: list[dict[str, object]] = (),
    *,
    zone: str = "UTC",
    zones: dict[str, str] | None = None,
    lists: list[dict[str, object]] = (),
    days: list[tuple[str, date, str | None]] = (),
    earlier: list[tuple[str, list[str], int, int]] = (),
    observed: list[tuple[str, date]] = (),
    now: datetime = NOW,
) -> PersonalityInputs:
    top_columns = ["user_id", "time_range", "rank", "spotify_id", "genres", "popularity"]
    return PersonalityInputs(
        now=now,
        zones=zones or {"anna": zone},
        plays=plays_frame(list(plays)),
        days=pd.DataFrame(list(days), columns=["user_id", "date", "top_artist_id"]),
        top_artists=pd.DataFrame(list(lists), columns=[*top_columns, "fetched_at"]),
        earlier=pd.DataFrame(
            list(earlier), columns=["user_id", "artist_ids", "plays", "observed_days"]
        ),
        observed=pd.DataFrame(list(observed), columns=["user_id", "date"]),
    )


def anna(*args: object, **kwargs: object) -> dict[str, object]:
    (row,) = records(music_personality(inputs(*args, **kwargs)))
    return row


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-12, abs=1e-12)


# --- the row ------------------------------------------------------------------------------------


def test_a_user_without_data_has_a_row_of_reasons():
    row = anna()
    assert list(row) == list(definition.COLUMNS)
    assert (row["window_start"], row["window_end"]) == (date(2026, 10, 24), date(2026, 11, 20))
    assert (row["play_count"], row["unique_artists"], row["tags"]) == (0, 0, [])
    assert row["definition_version"] == definition.VERSION
    plays = "needs 50 plays, has 0"
    assert row["reasons"] == {
        "artist_diversity": plays,
        "effective_artists": plays,
        "artist_concentration": plays,
        "repeat_share": plays,
        "repeat_rate": plays,
        "artist_discovery_rate": plays,
        "taste_stability": "needs 20 artists in the short_term and long_term lists, has 0",
        "peak_hour": plays,
        "time_focus": plays,
        "night_share": plays,
        "weekend_share": plays,
        "listening_regularity": "needs 14 observed days, has 0",
        "longest_streak": "needs 2 days with plays, has 0",
        "longest_streak_artist_id": "needs 2 days with plays, has 0",
        "current_streak": "needs 2 days with plays, has 0",
        "streak_artist_id": "needs 2 days with plays, has 0",
        "genre_diversity": "needs 10 artists with genres, has 0",
        "mainstream_score": "needs 20 artists with popularity, has 0",
        "newness": "needs 50 plays with a release date known to the day, has 0",
        "tags": "INSUFFICIENT_DATA",
    }


def test_one_play_too_few_gives_the_reason_of_the_definition():
    row = anna(spread(12))
    assert row["play_count"] == 12
    assert row["reasons"]["artist_diversity"] == "needs 50 plays, has 12"
    assert anna(spread(49))["repeat_share"] is None
    assert anna(spread(50))["repeat_share"] is not None


def test_the_window_is_28_local_days_that_end_today():
    """In Auckland it is already the 21st, and its days begin 13 hours before those of UTC."""
    zone = "Pacific/Auckland"
    inside = ["2026-10-25 00:00", "2026-11-21 09:00"]
    outside = ["2026-10-24 23:59:59.999", "2026-11-22 00:00"]
    row = anna([play(wall(clock, zone)) for clock in inside + outside], zone=zone)
    assert (row["window_start"], row["window_end"]) == (date(2026, 10, 25), date(2026, 11, 21))
    assert row["play_count"] == 2


def test_imported_plays_count_from_30_seconds_on():
    skips = [play(day(1), ms_played=29_999), play(day(2), ms_played=30_000), play(day(3))]
    assert anna(skips)["play_count"] == 2


def test_the_definition_dates_what_is_compared():
    assert definition.window(date(2026, 11, 20)) == (date(2026, 10, 24), date(2026, 11, 20))
    first, last = definition.earlier(date(2026, 11, 20))
    assert last == date(2026, 10, 23)
    assert (last - first).days + 1 == 180


def test_the_definition_names_every_column_once():
    names = [metric.column for metric in definition.METRICS]
    assert len(names) == len(set(names)) == 20
    assert {tag.metric for tag in definition.TAGS} <= set(names)


# --- artists and tracks ---------------------------------------------------------------------------


def test_two_equally_played_artists_have_diversity_1():
    row = anna(
        spread(25, artist_id="a") + [play(day(n, "13:00"), artist_id="b") for n in range(25)]
    )
    assert row["unique_artists"] == 2
    assert row["artist_diversity"] == near(1)
    assert row["effective_artists"] == near(2)
    assert row["artist_concentration"] == near(0.5)


def test_diversity_of_forty_plays_to_ten():
    row = anna(
        spread(40, artist_id="a") + [play(day(n, "13:00"), artist_id="b") for n in range(10)]
    )
    h = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))  # 0.50040 nats
    assert row["artist_diversity"] == near(h / math.log(2)) == pytest.approx(0.72193, abs=5e-6)
    assert row["effective_artists"] == near(math.exp(h)) == pytest.approx(1.64938, abs=5e-6)
    assert row["artist_concentration"] == near(0.68)


def test_a_single_artist_is_not_diverse_at_all():
    row = anna(spread(50, artist_id="a"))
    assert (row["artist_diversity"], row["effective_artists"]) == (0.0, 1.0)
    assert (row["artist_concentration"], row["unique_artists"]) == (1.0, 1)
    assert "artist_diversity" not in row["reasons"]


def test_repeats_are_counted_per_play_and_per_track():
    """50 plays of 22 tracks: one 20 times, one 10 times, 20 once."""
    tracks = ["x"] * 20 + ["y"] * 10 + [f"once{n}" for n in range(20)]
    row = anna([play(day(n % 20, f"1{n // 20}:00"), track_id=t) for n, t in enumerate(tracks)])
    assert row["repeat_share"] == near(1 - 22 / 50)
    assert row["repeat_rate"] == near(2 / 22)


def test_discovery_is_the_share_of_plays_of_artists_not_heard_before():
    plays = spread(40, artist_id="old") + [
        play(day(n, "13:00"), artist_id="new") for n in range(10)
    ]
    assert anna(plays, earlier=[("anna", ["old", "other"], 200, 60)])[
        "artist_discovery_rate"
    ] == near(0.2)
    assert anna(plays, earlier=[("anna", ["x"], 200, 60)])["artist_discovery_rate"] == near(1)
    others = [("anna", ["old"], 200, 60), ("bert", ["new"], 900, 180)]
    assert anna(plays, earlier=others)["artist_discovery_rate"] == near(0.2)


@pytest.mark.parametrize(
    ("earlier", "reason"),
    [
        ([], "needs 60 observed days in the 180 days before, has 0"),
        ([("anna", ["a"], 900, 59)], "needs 60 observed days in the 180 days before, has 59"),
        ([("anna", ["a"], 199, 60)], "needs 200 plays in the 180 days before, has 199"),
        ([("anna", [], 0, 180)], "needs 200 plays in the 180 days before, has 0"),
    ],
)
def test_discovery_needs_a_past_to_compare_with(earlier, reason):
    row = anna(spread(50), earlier=earlier)
    assert row["artist_discovery_rate"] is None
    assert row["reasons"]["artist_discovery_rate"] == reason


# --- hours and days -------------------------------------------------------------------------------


def at_hours(*clocks: str, days: int = 25) -> list[dict[str, object]]:
    return [play(day(n, clock), track_id=clock) for clock in clocks for n in range(days)]


def test_the_peak_lies_between_the_hours_also_across_midnight():
    """22:00 and 02:00 are 30 degrees on either side of midnight: R = cos 30°."""
    row = anna(at_hours("22:00", "02:00", days=27)[1:])
    assert row["time_focus"] == pytest.approx(math.cos(math.pi / 6), abs=1e-3)
    row = anna([play(day(n + 1, clock)) for clock in ("22:00", "02:00") for n in range(25)])
    assert row["time_focus"] == near(math.cos(math.pi / 6))
    assert min(row["peak_hour"], 24 - row["peak_hour"]) == near(0)
    assert 0 <= row["peak_hour"] < 24


def test_everything_at_half_past_six_is_a_peak_of_6_5():
    row = anna(at_hours("06:30", "06:30:00.001"))
    assert row["peak_hour"] == pytest.approx(6.5, abs=1e-6)
    assert row["time_focus"] == pytest.approx(1, abs=1e-12)
    assert row["time_focus"] <= 1


def test_the_peak_is_in_the_listeners_own_zone():
    row = anna(at_hours("06:30", "06:31"), zone="Asia/Kolkata")
    assert row["peak_hour"] == pytest.approx(12 + 1 / 120, abs=1e-6)


def test_opposite_hours_have_no_peak_but_a_focus_of_0():
    row = anna([play(day(n + 1, clock)) for clock in ("00:00", "12:00") for n in range(25)])
    assert row["time_focus"] == near(0)
    assert row["peak_hour"] is None
    assert row["reasons"]["peak_hour"] == "needs a clear peak: Rayleigh z 3.0, has 0.0"


def test_a_peak_is_clear_from_a_rayleigh_z_of_3():
    """Of 50 plays n - m more at 6:00 than at 18:00: R = (n - m) / 50 and z = 50 R²."""

    def row(n: int) -> dict[str, object]:
        clocks = ["06:00"] * n + ["18:00"] * (50 - n)
        return anna([play(day(1 + i % 25, clock)) for i, clock in enumerate(clocks)])

    assert row(31)["peak_hour"] is None  # R = 0.24, z = 2.88
    assert row(31)["reasons"]["peak_hour"].endswith("has 2.88")
    assert row(32)["peak_hour"] == near(6)  # R = 0.28, z = 3.92


def test_hour_metrics_need_7_days_and_shares_14():
    row = anna([play(day(n % 6), track_id=str(n)) for n in range(60)])
    assert row["time_focus"] is None
    assert row["reasons"]["time_focus"] == "needs 7 days with plays, has 6"
    assert row["reasons"]["peak_hour"] == "needs 7 days with plays, has 6"
    row = anna([play(day(n % 7), track_id=str(n)) for n in range(60)])
    assert row["time_focus"] == near(1)
    assert row["reasons"]["night_share"] == "needs 14 days with plays, has 7"
    assert row["reasons"]["weekend_share"] == "needs 14 days with plays, has 7"


def test_the_night_goes_from_midnight_to_6_local_time():
    clocks = ["00:00", "05:59:59.999", "06:00", "23:59:59.999"]
    plays = [play(day(n + 1, clock)) for clock in clocks for n in range(14)]
    assert anna(plays)["night_share"] == near(0.5)
    # 00:00 UTC is 19:00 in New York and 05:59 is 00:59: half switch between day and night.
    there = anna(plays, zone="Etc/GMT+5")
    assert there["night_share"] == near(0.5)
    assert anna(plays, zone="Asia/Tokyo")["night_share"] == near(0)


def test_the_weekend_is_the_local_saturday_and_sunday():
    # 28 days hold four weekends.
    assert anna([play(day(n, clock)) for n in range(28) for clock in ("12:00", "13:00")])[
        "weekend_share"
    ] == near(8 / 28)
    # Friday 23:30 in London is Saturday in Berlin.
    fridays = [play(utc("2026-11-06 23:30")), play(utc("2026-11-13 23:30"))]
    weekdays = [
        play(day(n, clock))
        for n in range(20)
        if day(n).weekday() < 4
        for clock in ("10:00", "11:00", "12:00", "13:00")
    ]
    assert len(fridays + weekdays) >= 50
    assert anna(fridays + weekdays)["weekend_share"] == near(0)
    berlin = anna(fridays + weekdays, zone="Europe/Berlin")
    assert berlin["weekend_share"] == near(2 / len(fridays + weekdays))


def test_regularity_is_the_share_of_observed_days_with_a_play():
    observed = [("anna", TODAY - timedelta(days=n)) for n in range(20)]
    plays = [play(day(n)) for n in range(5)] + [play(day(n)) for n in range(19, 25)]
    assert anna(plays, observed=observed)["listening_regularity"] == near(6 / 20)
    # Days outside the window and duplicate days do not count.
    more = observed + observed + [("anna", TODAY - timedelta(days=n)) for n in range(28, 60)]
    assert anna(plays, observed=more)["listening_regularity"] == near(6 / 20)
    row = anna(plays, observed=observed[:13])
    assert row["listening_regularity"] is None
    assert row["reasons"]["listening_regularity"] == "needs 14 observed days, has 13"


def test_observed_days_without_plays_have_regularity_0():
    observed = [("anna", TODAY - timedelta(days=n)) for n in range(14)]
    assert anna(observed=observed)["listening_regularity"] == 0.0


# --- streaks --------------------------------------------------------------------------------------


def test_streaks_come_from_the_whole_history():
    start = date(2020, 1, 1)
    days = [("anna", start + timedelta(days=n), "a") for n in range(30)]
    days += [("anna", TODAY - timedelta(days=n), "b") for n in range(3)]
    row = anna(days=days)
    assert (row["longest_streak"], row["longest_streak_artist_id"]) == (30, "a")
    assert (row["current_streak"], row["streak_artist_id"]) == (3, "b")


def test_no_streak_is_0_and_has_no_artist():
    days = [("anna", TODAY - timedelta(days=n), str(n)) for n in range(5)]
    row = anna(days=days)
    assert (row["longest_streak"], row["current_streak"]) == (0, 0)
    assert (row["longest_streak_artist_id"], row["streak_artist_id"]) == (None, None)
    assert row["reasons"]["longest_streak_artist_id"] == "longest_streak is 0"
    assert row["reasons"]["streak_artist_id"] == "current_streak is 0"
    assert "longest_streak" not in row["reasons"]


def test_streaks_need_more_than_one_day():
    row = anna(days=[("anna", TODAY, "a"), ("anna", TODAY - timedelta(days=1), None)])
    assert (row["longest_streak"], row["current_streak"]) == (None, None)
    assert row["reasons"]["longest_streak"] == "needs 2 days with plays, has 1"


# --- top lists ------------------------------------------------------------------------------------


def test_stability_is_the_overlap_of_short_and_long_term():
    """20 and 20 artists, 10 in both: 10 of 30."""
    lists = listed("short_term", ids(1, 20)) + listed("long_term", ids(11, 30))
    assert anna(lists=lists)["taste_stability"] == near(10 / 30)


def test_stability_compares_as_many_of_each_list():
    """Of the longer list only the first 20: a16 to a20 are in both, a21 to a35 come too late."""
    longer = ids(100, 114) + ids(16, 20) + ids(1, 15)
    lists = listed("short_term", ids(1, 20)) + listed("long_term", longer)
    assert anna(lists=lists)["taste_stability"] == near(5 / 35)
    lists = listed("short_term", ids(1, 60)) + listed("long_term", ids(1, 50) + ids(91, 100))
    assert anna(lists=lists)["taste_stability"] == near(1)


def test_stability_needs_20_of_each():
    lists = listed("short_term", ids(1, 50)) + listed("long_term", ids(1, 19))
    row = anna(lists=lists)
    assert row["taste_stability"] is None
    assert row["reasons"]["taste_stability"] == (
        "needs 20 artists in the short_term and long_term lists, has 19"
    )


def test_genres_are_diverse_when_they_are_spread():
    """pop 10, rock 5, jazz 5: H = 1.5 ln 2 over ln 3."""
    genres = [["pop", "rock"]] * 5 + [("pop", "jazz", "jazz")] * 5
    row = anna(lists=listed("medium_term", ids(1, 10), genres=genres))
    assert row["genre_diversity"] == near(1.5 * math.log(2) / math.log(3))
    assert row["genre_diversity"] == pytest.approx(0.9464, abs=5e-5)


def test_genre_diversity_needs_10_artists_with_genres_and_2_genres():
    missing = [None, []] * 5
    row = anna(lists=listed("medium_term", ids(1, 19), genres=[["pop", "x"]] * 9 + missing))
    assert row["reasons"]["genre_diversity"] == "needs 10 artists with genres, has 9"
    row = anna(lists=listed("medium_term", ids(1, 20), genres=[["pop"]] * 10 + missing))
    assert row["reasons"]["genre_diversity"] == "needs 2 genres, has 1"
    row = anna(lists=listed("long_term", ids(1, 20), genres=[["pop", "x"]] * 20))
    assert row["reasons"]["genre_diversity"] == "needs 10 artists with genres, has 0"


def test_the_mainstream_score_weighs_the_first_places_most():
    """Weights 1, 0.95 ... 0.05 sum to 10.5."""
    first = anna(lists=listed("medium_term", ids(1, 20), popularity=[100] + [0] * 19))
    assert first["mainstream_score"] == near(100 / 10.5)
    last = anna(lists=listed("medium_term", ids(1, 20), popularity=[0] * 19 + [100]))
    assert last["mainstream_score"] == near(5 / 10.5)


def test_artists_without_popularity_keep_their_place_and_weigh_nothing():
    """21 places: weights 1 - i/21; the second is unknown. Σw = 11 - 20/21."""
    popularity = [100, None] + [0] * 19
    row = anna(lists=listed("medium_term", ids(1, 21), popularity=popularity))
    assert row["mainstream_score"] == near(100 / (11 - 20 / 21))
    row = anna(lists=listed("medium_term", ids(1, 21), popularity=[None, None] + [0] * 19))
    assert row["reasons"]["mainstream_score"] == "needs 20 artists with popularity, has 19"


@pytest.mark.parametrize("days_old", [35, 36])
def test_metrics_of_a_list_older_than_35_days_are_null(days_old):
    fetched_at = NOW - timedelta(days=days_old)
    full = {"genres": [["pop"], ["rock"]] * 10, "popularity": [50] * 20}
    lists = [
        *listed("short_term", ids(1, 20)),
        *listed("medium_term", ids(1, 20), fetched_at=fetched_at, **full),
        *listed("long_term", ids(1, 20), fetched_at=fetched_at),
    ]
    row = anna(lists=lists)
    if days_old == 35:
        assert row["taste_stability"] == row["genre_diversity"] == near(1)
        assert row["mainstream_score"] == near(50)
    else:
        assert row["reasons"]["taste_stability"] == "the long_term list is older than 35 days"
        assert row["reasons"]["genre_diversity"] == "the medium_term list is older than 35 days"
        assert row["reasons"]["mainstream_score"] == "the medium_term list is older than 35 days"


# --- newness --------------------------------------------------------------------------------------


def dated(release_date: str | None, number: int) -> list[dict[str, object]]:
    """Plays on 2026-11-01 in UTC."""
    start = utc("2026-11-01 10:00")
    return [
        play(
            start + timedelta(seconds=40 * n),
            track_id=f"{release_date}{n}",
            release_date=release_date,
        )
        for n in range(number)
    ]


def test_new_is_what_was_released_at_most_180_days_before_the_play():
    """180 days before 2026-11-01 is 2026-05-05."""
    plays = dated("2026-05-05", 20) + dated("2026-05-04", 30)
    assert anna(plays)["newness"] == near(20 / 50)
    # In Kiritimati the plays fell on the 2nd.
    assert anna(plays, zone="Pacific/Kiritimati")["newness"] == near(0)


def test_an_album_dated_after_the_play_is_new():
    assert anna(dated("2027-01-01", 50))["newness"] == near(1)


def test_years_months_and_nonsense_are_no_known_dates():
    unknown = ["2026", "2026-10", None, "", "2026-02-30", "0000-00-00", "2026-10-01T00:00:00Z", "x"]
    plays = dated("2026-10-01", 25) + dated("1965-01-01", 25)
    for text in unknown:
        plays += dated(text, 5)
    row = anna(plays)
    assert row["newness"] == near(0.5)
    row = anna(plays[1:])
    assert row["newness"] is None
    assert (
        row["reasons"]["newness"] == "needs 50 plays with a release date known to the day, has 49"
    )


# --- tags -----------------------------------------------------------------------------------------


def _tags_for(**metrics: float) -> set[str]:
    return {
        tag.name
        for tag in definition.TAGS
        if tag.metric in metrics and tag.holds(metrics[tag.metric])
    }


@pytest.mark.parametrize(
    ("metric", "value", "tag"),
    [
        ("artist_discovery_rate", 0.25, "Explorer"),
        ("artist_discovery_rate", 0.2499, None),
        ("artist_discovery_rate", 0.0501, None),
        ("artist_discovery_rate", 0.05, "Loyalist"),
        ("repeat_share", 0.55, "Repeat Listener"),
        ("repeat_share", 0.5499, None),
        ("repeat_share", 0.2501, None),
        ("repeat_share", 0.25, "Discoverer"),
        ("artist_concentration", 0.05, "Deep Diver"),
        ("artist_concentration", 0.0499, None),
        ("night_share", 0.35, "Night Owl"),
        ("night_share", 0.3499, None),
        ("mainstream_score", 70.0001, "Mainstream"),
        ("mainstream_score", 70, None),
        ("mainstream_score", 40, None),
        ("mainstream_score", 39.9999, "Hipster"),
    ],
)
def test_each_tag_begins_exactly_at_its_threshold(metric, value, tag):
    assert _tags_for(**{metric: value}) == ({tag} if tag else set())


def test_tags_follow_from_the_metrics_of_the_row():
    """50 plays of 10 artists at night, all tracks once, artists of low popularity."""
    plays = [
        play(day(1 + n % 25, f"0{1 + n // 25}:00"), track_id=f"t{n}", artist_id=f"a{n % 10}")
        for n in range(50)
    ]
    lists = listed("medium_term", ids(1, 20), popularity=[10] * 20)
    row = anna(plays, lists=lists, earlier=[("anna", ["a1"], 300, 100)])
    assert row["tags"] == ["Explorer", "Discoverer", "Deep Diver", "Night Owl", "Hipster"]
    assert "tags" not in row["reasons"]


def test_an_unknown_metric_gives_no_tag():
    plays = [play(day(n), track_id=f"t{n}", artist_id=f"a{n}") for n in range(20)]
    assert anna(plays)["tags"] == []
    assert "tags" not in anna(plays)["reasons"]


def test_fewer_than_10_artists_are_too_few_for_tags():
    plays = [play(day(n % 25, f"1{n // 25}:00"), artist_id=f"a{n % 9}") for n in range(50)]
    row = anna(plays, lists=listed("medium_term", ids(1, 20), popularity=[99] * 20))
    assert row["unique_artists"] == 9
    assert row["tags"] == []
    assert row["reasons"]["tags"] == "INSUFFICIENT_DATA"


# Each example has six full users: a fifth of the usual number is enough.
few = settings(max_examples=settings.default.max_examples // 5)


# --- many users -----------------------------------------------------------------------------------


def crowd(seed: int) -> PersonalityInputs:
    """Four users with enough of everything, one with little and one with nothing."""
    dice = random.Random(seed)
    zones = {f"u{n}": dice.choice(ZONES) for n in range(6)}
    plays, lists, earlier, observed = [], [], [], []
    for number, user in enumerate(zones):
        for at in dice.sample(range(33 * 86_400), [90, 120, 60, 300, 5, 0][number]):
            plays.append(
                play(
                    NOW - timedelta(seconds=at),
                    user_id=user,
                    track_id=f"t{dice.randrange(60)}",
                    artist_id=f"a{dice.randrange(30)}",
                    ms_played=dice.choice([None, None, 10_000, 50_000]),
                    release_date=dice.choice(["2026-09-01", "2019-01-01", "2020", None]),
                )
            )
        for time_range in ("short_term", "medium_term", "long_term")[: 3 if number < 4 else 1]:
            artists = [f"a{n}" for n in dice.sample(range(40), 30)]
            lists += [
                row | {"user_id": user}
                for row in listed(
                    time_range,
                    artists,
                    genres=[dice.choice([["pop", "rock"], ["jazz"], [], None]) for _ in artists],
                    popularity=[dice.choice([None, 0, 50, 100]) for _ in artists],
                    fetched_at=NOW - timedelta(days=dice.choice([0, 34, 36])),
                )
            ]
        earlier.append((user, [f"a{n}" for n in range(20)], dice.choice([199, 500]), 100))
        observed += [(user, TODAY - timedelta(days=n)) for n in range(dice.randrange(30))]
    frame = plays_frame(plays)
    days = daily_listening(frame, zones)[["user_id", "date", "top_artist_id"]]
    return inputs(
        plays,
        zones=zones,
        lists=lists,
        earlier=earlier,
        observed=observed,
        days=list(days.itertuples(index=False, name=None)),
    )


@few
@given(st.integers(0, 10_000))
def test_the_order_of_rows_changes_nothing_not_even_the_last_bit(seed):
    ordered = crowd(seed)
    frames = ("plays", "days", "top_artists", "earlier", "observed")
    shuffled = replace(
        ordered,
        **{name: getattr(ordered, name).sample(frac=1, random_state=seed) for name in frames},
    )
    assert records(music_personality(shuffled)) == records(music_personality(ordered))


@few
@given(st.integers(0, 10_000))
def test_a_user_alone_has_the_same_row_as_among_others(seed):
    together = crowd(seed)
    for row in records(music_personality(together)):
        alone = replace(together, zones={row["user_id"]: together.zones[row["user_id"]]})
        assert records(music_personality(alone)) == [row]


@few
@given(st.integers(0, 10_000))
def test_every_value_is_in_range_and_every_missing_one_has_a_reason(seed):
    for row in records(music_personality(crowd(seed))):
        for metric in definition.METRICS:
            value = row[metric.column]
            assert (value is None) == (metric.column in row["reasons"])
            if value is None or metric.range == "id":
                continue
            high = {"0 to 1": 1, "0 to 100": 100, "1 to A": row["unique_artists"]}
            assert type(value) is (int if metric.range in ("count", "days") else float)
            assert 0 <= value <= high.get(metric.range, math.inf)
            assert metric.column != "peak_hour" or value < 24
            assert metric.column != "effective_artists" or value >= 1


def test_the_generated_users_have_every_metric():
    """Otherwise the properties above would hold vacuously."""
    rows = [row for seed in range(5) for row in records(music_personality(crowd(seed)))]
    for metric in definition.METRICS:
        assert any(row[metric.column] is not None for row in rows), metric.column


def test_no_users_give_no_rows():
    result = music_personality(replace(crowd(1), zones={}))
    assert list(result.columns) == list(definition.COLUMNS)
    assert len(result) == 0


def test_the_document_lists_every_metric_and_tag_with_its_minimum():
    text = (Path(__file__).parents[3] / "docs" / "personality.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if "|" in line}
    for metric in definition.METRICS:
        numbers = re.findall(r"\d+", metric.minimum)
        assert all(number in rows[metric.column] for number in numbers), metric.column
    for tag in definition.TAGS:
        assert f"`{tag.metric}`" in rows[tag.name]
        (threshold,) = re.findall(r"[0-9.]+$", rows[tag.name].strip("| "))
        below, above = float(threshold) - 1e-9, float(threshold) + 1e-9
        assert tag.holds(below) != tag.holds(above)
        assert tag.holds(above) == (">" in rows[tag.name] or "≥" in rows[tag.name])
        assert tag.holds(float(threshold)) == ("≥" in rows[tag.name] or "≤" in rows[tag.name])
