import os
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.listening.days import (
    daily_listening,
    listened_ms,
    local_today,
    reading_window,
    window_around,
)
from spotify_pipeline.domain.zones import UnknownZone, all_zones, check_zone
from spotify_pipeline_tests import expected_listening
from spotify_pipeline_tests.domain.builders import (
    ZONES,
    listening,
    local_date,
    local_dates,
    play,
    plays_frame,
    records,
    utc,
    wall,
)


def _one_day(*rows: dict[str, object], zone: str = "UTC") -> dict[str, object]:
    (day,) = records(daily_listening(plays_frame(list(rows)), {"anna": zone}))
    return day


def _listened(plays: pd.DataFrame) -> dict[str, dict[tuple[datetime, str], int]]:
    """Listened time of each user's plays by the oracle."""
    return {
        user: expected_listening.listened_ms(
            (
                row["played_at"].to_pydatetime(),
                row["track_id"],
                None if pd.isna(row["ms_played"]) else row["ms_played"],
                None if pd.isna(row["duration_ms"]) else row["duration_ms"],
            )
            for row in rows.to_dict("records")
        )
        for user, rows in plays.groupby("user_id")
    }


def _plainly(plays: pd.DataFrame, zones: dict[str, str]) -> list[dict[str, object]]:
    """The rules implemented play by play, without pandas."""
    days: dict[tuple[str, date], list[dict[str, object]]] = {}
    listened = _listened(plays)
    for row in plays.to_dict("records"):
        day = local_date(row["played_at"].to_pydatetime(), zones[row["user_id"]])
        ms = listened[row["user_id"]][row["played_at"].to_pydatetime(), row["track_id"]]
        counts = row["source"] == "api" or ms >= 30_000
        days.setdefault((row["user_id"], day), []).append(row | {"ms": ms, "counts": counts})
    result = []
    for (user_id, day), rows in sorted(days.items()):
        heard = [row for row in rows if row["counts"]]

        def top(item: str, heard: list = heard) -> str | None:
            plays, ms, first = Counter(), Counter(), {}
            for row in heard:
                plays[row[item]] += 1
                ms[row[item]] += row["ms"]
                first[row[item]] = min(first.get(row[item], row["played_at"]), row["played_at"])
            return min(plays, key=lambda x: (-plays[x], -ms[x], first[x], x), default=None)

        listened_ms = sum(row["ms"] for row in rows)
        result.append(
            {
                "user_id": user_id,
                "date": day,
                "minutes": (listened_ms + 30_000) // 60_000,
                "listened_ms": listened_ms,
                "plays": len(heard),
                "unique_tracks": len({row["track_id"] for row in heard}),
                "unique_artists": len({row["artist_id"] for row in heard}),
                "top_track_id": top("track_id"),
                "top_artist_id": top("artist_id"),
                "basis": basis(rows),
            }
        )
    return result


def basis(rows: list[dict[str, object]]) -> str:
    """What knows the plays of a day."""
    if all(pd.isna(row["ms_played"]) for row in rows):
        return "api"
    return "both" if any(row["source"] == "api" for row in rows) else "export"


# --- one day, by hand ---------------------------------------------------------------------------


def test_a_day_of_two_plays():
    day = _one_day(
        play(utc("2026-03-01 10:00"), track_id="x", artist_id="p", duration_ms=200_000),
        play(utc("2026-03-01 11:00"), track_id="y", artist_id="p", duration_ms=69_999),
    )
    assert day == {
        "user_id": "anna",
        "date": date(2026, 3, 1),
        "minutes": 4,  # 269,999 ms is 4.49998 minutes
        "listened_ms": 269_999,
        "plays": 2,
        "unique_tracks": 2,
        "unique_artists": 1,
        "top_track_id": "x",
        "top_artist_id": "p",
        "basis": "api",
    }


@pytest.mark.parametrize(
    ("listened_ms", "minutes"), [(29_999, 0), (30_000, 1), (89_999, 1), (90_000, 2)]
)
def test_minutes_are_rounded_half_up(listened_ms, minutes):
    assert _one_day(play(utc("2026-03-01"), duration_ms=listened_ms))["minutes"] == minutes


def test_an_imported_play_counts_from_30_seconds_on_but_its_time_always_does():
    day = _one_day(
        play(utc("2026-03-01 10:00"), track_id="skip", ms_played=29_999),
        play(utc("2026-03-01 11:00"), track_id="skip", ms_played=29_999),
        play(utc("2026-03-01 12:00"), track_id="heard", ms_played=30_000),
    )
    assert (day["plays"], day["unique_tracks"], day["top_track_id"]) == (1, 1, "heard")
    assert day["listened_ms"] == 89_998


def test_a_day_of_skips_only_is_stored_without_a_top():
    day = _one_day(play(utc("2026-03-01 10:00"), ms_played=5_000))
    assert (day["plays"], day["unique_tracks"], day["unique_artists"]) == (0, 0, 0)
    assert (day["top_track_id"], day["top_artist_id"]) == (None, None)
    assert (day["listened_ms"], day["minutes"]) == (5_000, 0)


def test_the_top_has_the_most_plays():
    day = _one_day(
        play(utc("2026-03-01 10:00"), track_id="long", duration_ms=900_000),
        play(utc("2026-03-01 11:00"), track_id="often", duration_ms=40_000),
        play(utc("2026-03-01 12:00"), track_id="often", duration_ms=40_000),
    )
    assert day["top_track_id"] == "often"


def test_ties_of_plays_go_to_the_most_listened_time():
    day = _one_day(
        play(utc("2026-03-01 10:00"), track_id="a", duration_ms=40_000),
        play(utc("2026-03-01 11:00"), track_id="b", duration_ms=40_001),
    )
    assert day["top_track_id"] == "b"


def test_skips_do_not_count_for_the_top():
    day = _one_day(
        play(utc("2026-03-01 09:00"), track_id="b", ms_played=29_000),
        play(utc("2026-03-01 10:00"), track_id="a", ms_played=40_000),
        play(utc("2026-03-01 11:00"), track_id="b", ms_played=40_000),
    )
    assert day["top_track_id"] == "a"


def test_ties_of_plays_and_time_go_to_the_earliest_play_of_the_day():
    day = _one_day(
        play(utc("2026-03-01 11:00"), track_id="a"), play(utc("2026-03-01 10:00"), track_id="b")
    )
    assert day["top_track_id"] == "b"


def test_ties_at_one_instant_go_to_the_lowest_code_point():
    """UTF-16 order would put the astral character first, a locale the small letter."""
    at = utc("2026-03-01 11:00")
    day = _one_day(
        play(at, track_id="\U00010000", ms_played=40_000),
        play(at, track_id="\uffff", ms_played=40_000),
    )
    assert day["top_track_id"] == "\uffff"
    day = _one_day(
        play(at, track_id="a", ms_played=40_000), play(at, track_id="B", ms_played=40_000)
    )
    assert day["top_track_id"] == "B"


# --- many users ---------------------------------------------------------------------------------


def test_each_user_has_days_in_their_own_zone_sorted_by_user_and_date():
    at = utc("2026-03-01 11:30")
    zones = {"a": "Pacific/Auckland", "B": "America/Los_Angeles", "c": "UTC"}
    plays = plays_frame([play(at, user_id=user) for user in ("c", "a", "B")])
    days = daily_listening(plays, zones | {"nobody": "Asia/Tokyo"})
    assert list(zip(days["user_id"], days["date"], strict=True)) == [
        ("B", date(2026, 3, 1)),
        ("a", date(2026, 3, 2)),
        ("c", date(2026, 3, 1)),
    ]


@given(listening())
def test_days_equal_a_plain_loop_over_plays(case):
    plays, zones = case
    assert records(daily_listening(plays, zones)) == _plainly(plays, zones)


@given(listening(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(case, random):
    plays, zones = case
    order = list(range(len(plays)))
    random.shuffle(order)
    pd.testing.assert_frame_equal(
        daily_listening(plays.iloc[order], zones), daily_listening(plays, zones)
    )


@given(listening(), st.sampled_from(ZONES))
def test_days_sum_to_the_plays_in_any_zone(case, zone):
    plays, zones = case
    days = daily_listening(plays, dict.fromkeys(zones, zone))
    heard = plays[(plays["source"] == "api") | (plays["ms_played"] >= 30_000).fillna(False)]
    assert days["plays"].sum() == len(heard)
    assert days["listened_ms"].sum() == sum(sum(of.values()) for of in _listened(plays).values())


@pytest.mark.parametrize(
    "zone", all_zones() if os.environ.get("SOAK") else sorted({*ZONES, *all_zones()[::40]})
)
def test_three_years_of_any_zone_add_up_whatever_its_clock_did(zone):
    """A play in every half hour: each instant falls on exactly one day."""
    for start in ("2011-01-01", "2025-01-01"):
        times = pd.date_range(start, periods=3 * 365 * 48, freq="30min", tz="UTC")
        frame = plays_frame([play(utc("2026-01-01"))]).iloc[[0] * len(times)]
        days = daily_listening(frame.assign(played_at=times), {"anna": zone})
        assert days["plays"].sum() == len(times)
        assert days["listened_ms"].sum() == len(times) * 200_000
        # 22 (in Troll) to 26 hours each, except at both ends and when a date line moved.
        whole = days["plays"].iloc[1:-1]
        assert (~whole.between(44, 52)).sum() <= 2
        assert len(days) - 1 - 3 * 365 in (-1, 0, 1)


@given(listening(), st.data())
def test_recomputing_touched_days_equals_a_full_rebuild_for_any_batching(case, data):
    plays, zones = case
    order = data.draw(st.permutations(range(len(plays))))
    kept: dict[tuple[str, date], dict[str, object]] = {}
    done = 0
    while done < len(order):
        batch = order[done : done + data.draw(st.integers(1, 20))]
        done += len(batch)
        new, stored = plays.iloc[batch], plays.iloc[order[:done]]
        start, end = window_around(new["played_at"].min(), new["played_at"].max())
        near = stored[stored["played_at"].between(start, end, inclusive="left")]
        for row in records(daily_listening(near, zones, touched_by=new)):
            kept[row["user_id"], row["date"]] = row
    assert [kept[key] for key in sorted(kept)] == records(daily_listening(plays, zones))


@pytest.mark.parametrize("untyped", [True, False])
def test_no_plays_give_no_days(untyped):
    plays = plays_frame([])
    days = daily_listening(plays.astype(object) if untyped else plays, {})
    assert len(days) == 0
    assert days.dtypes["listened_ms"] == "int64"
    assert len(daily_listening(plays, {}, touched_by=plays)) == 0
    assert len(local_dates(plays, {})) == 0


def test_a_frame_of_python_values_is_enough():
    """Rows from the database are objects, with None for a missing ms_played."""
    row = play(datetime(2026, 3, 1, 10, tzinfo=UTC))
    for ms_played in ([None, 40_000], [None, None]):
        rows = [row | {"ms_played": ms_played[0]}, row | {"ms_played": ms_played[1]}]
        rows[1] |= {"source": "export", "track_id": "t2"}
        (day,) = records(daily_listening(pd.DataFrame(rows), {"anna": "UTC"}))
        assert day["listened_ms"] == 200_000 + (ms_played[1] or 200_000)
        assert type(day["plays"]) is int


def test_a_user_without_a_zone_and_a_zone_without_rules_are_refused():
    plays = plays_frame([play(utc("2026-03-01"))])
    with pytest.raises(ValueError, match="'anna'"):
        daily_listening(plays, {"bert": "UTC"})
    with pytest.raises(UnknownZone, match="Europe/Berlin"):
        daily_listening(plays, {"anna": "Berlin"})


# --- local dates --------------------------------------------------------------------------------


@given(listening())
def test_the_local_date_of_each_play_is_the_standard_librarys(case):
    plays, zones = case
    expected = [
        row["played_at"].to_pydatetime().astimezone(check_zone(zones[row["user_id"]])).date()
        for row in plays.to_dict("records")
    ]
    backwards = plays.iloc[::-1]
    assert local_dates(plays, zones).to_list() == expected
    assert local_dates(backwards, zones).to_dict() == dict(enumerate(expected))


@pytest.mark.parametrize(
    ("zone", "instant", "day"),
    [
        # New York: spring forward 2026-03-08 07:00Z (EST ends), a day of 23 hours ...
        ("America/New_York", "2026-03-08 04:59:59.999", "2026-03-07"),
        ("America/New_York", "2026-03-08 05:00", "2026-03-08"),
        ("America/New_York", "2026-03-09 03:59:59.999", "2026-03-08"),
        ("America/New_York", "2026-03-09 04:00", "2026-03-09"),
        # ... and back 2026-11-01 06:00Z, a day of 25.
        ("America/New_York", "2026-11-01 03:59:59.999", "2026-10-31"),
        ("America/New_York", "2026-11-01 04:00", "2026-11-01"),
        ("America/New_York", "2026-11-02 04:59:59.999", "2026-11-01"),
        ("America/New_York", "2026-11-02 05:00", "2026-11-02"),
        # London: forward 2026-03-29 01:00Z, back 2026-10-25 01:00Z.
        ("Europe/London", "2026-03-28 23:59:59.999", "2026-03-28"),
        ("Europe/London", "2026-03-29 00:00", "2026-03-29"),
        ("Europe/London", "2026-03-29 22:59:59.999", "2026-03-29"),
        ("Europe/London", "2026-03-29 23:00", "2026-03-30"),
        ("Europe/London", "2026-10-24 23:00", "2026-10-25"),
        ("Europe/London", "2026-10-25 23:59:59.999", "2026-10-25"),
        ("Europe/London", "2026-10-26 00:00", "2026-10-26"),
        # Kolkata: half an hour off the hour, no shifts.
        ("Asia/Kolkata", "2026-07-01 18:29:59.999", "2026-07-01"),
        ("Asia/Kolkata", "2026-07-01 18:30", "2026-07-02"),
        # Lord Howe: +10:30, in summer +11; it moves by half an hour (2026-04-04 15:00Z, 10-03).
        ("Australia/Lord_Howe", "2026-04-04 12:59:59.999", "2026-04-04"),
        ("Australia/Lord_Howe", "2026-04-04 13:00", "2026-04-05"),
        ("Australia/Lord_Howe", "2026-04-05 13:29:59.999", "2026-04-05"),
        ("Australia/Lord_Howe", "2026-04-05 13:30", "2026-04-06"),
        ("Australia/Lord_Howe", "2026-10-04 12:59:59.999", "2026-10-04"),
        ("Australia/Lord_Howe", "2026-10-04 13:00", "2026-10-05"),
        # Apia jumped over the date line: after Thursday 2011-12-29 (-10) came Saturday (+14).
        ("Pacific/Apia", "2011-12-30 09:59:59.999", "2011-12-29"),
        ("Pacific/Apia", "2011-12-30 10:00", "2011-12-31"),
        ("Pacific/Apia", "2011-12-31 09:59:59.999", "2011-12-31"),
        ("Pacific/Apia", "2011-12-31 10:00", "2012-01-01"),
    ],
)
def test_shifts_of_the_clock_by_hand(zone, instant, day):
    plays = plays_frame([play(utc(instant))])
    assert local_dates(plays, {"anna": zone}).to_list() == [date.fromisoformat(day)]


@pytest.mark.parametrize(
    ("zone", "instant"),
    [
        ("Pacific/Auckland", "2026-06-30 11:59:59.999"),  # +12 in winter
        ("America/Los_Angeles", "2026-07-01 06:59:59.999"),  # -7 in summer
    ],
)
def test_the_last_millisecond_of_a_day_belongs_to_it(zone, instant):
    assert utc(instant) == wall("2026-06-30 23:59:59.999", zone)
    plays = plays_frame([play(utc(instant)), play(utc(instant) + timedelta(milliseconds=1))])
    assert local_dates(plays, {"anna": zone}).to_list() == [date(2026, 6, 30), date(2026, 7, 1)]


def test_both_hours_of_a_clock_turned_back_are_the_same_day():
    """Cuba turns back at 01:00 to midnight: the date begins twice."""
    first = wall("2025-11-02 00:30", "America/Havana", fold=0)
    second = wall("2025-11-02 00:30", "America/Havana", fold=1)
    assert second - first == timedelta(hours=1)
    day = _one_day(play(first), play(second), zone="America/Havana")
    assert (day["date"], day["plays"]) == (date(2025, 11, 2), 2)


def test_samoa_has_no_day_2011_12_30():
    hours = [play(utc("2011-12-29 00:00") + timedelta(hours=h), track_id="t") for h in range(72)]
    days = daily_listening(plays_frame(hours), {"anna": "Pacific/Apia"})
    assert [str(day) for day in days["date"]] == [
        "2011-12-28",
        "2011-12-29",
        "2011-12-31",
        "2012-01-01",
    ]
    assert days["plays"].to_list() == [10, 24, 24, 14]


def test_days_touched_by_some_plays_are_whole_and_no_others_are_returned():
    plays = plays_frame(
        [
            play(utc("2026-03-02 10:00"), user_id="b"),
            play(utc("2026-03-01 23:30"), user_id="a"),
            play(utc("2026-03-01 11:00"), user_id="a"),
            play(utc("2026-03-01 12:00"), user_id="a"),
            play(utc("2026-03-05 12:00"), user_id="a"),
        ]
    )
    touched_by = plays.iloc[[0, 1, 2]]
    days = daily_listening(plays, {"a": "Europe/Paris", "b": "UTC"}, touched_by)
    assert list(zip(days["user_id"], days["date"], days["plays"], strict=True)) == [
        ("a", date(2026, 3, 1), 2),
        ("a", date(2026, 3, 2), 1),
        ("b", date(2026, 3, 2), 1),
    ]


@given(
    zone=st.sampled_from(ZONES),
    moment=st.integers(-120 * 8766, 130 * 8766).map(
        lambda h: utc("1970-01-01") + timedelta(hours=h)
    ),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
)
def test_the_reading_window_holds_every_instant_of_its_dates(zone, moment, before, after):
    day = local_date(moment, zone)
    start, end = reading_window(day - timedelta(days=before), day + timedelta(days=after))
    assert start <= moment < end


def test_the_reading_window_reaches_to_the_ends_of_the_calendar():
    start, end = reading_window(date.min, date.max)
    assert (start.year, end.year) == (1, 9999)
    assert reading_window(date(2026, 3, 1), date(2026, 3, 1)) == (
        utc("2026-02-28"),
        utc("2026-03-03"),
    )


def test_today_is_the_date_in_the_users_zone():
    zones = {"a": "Pacific/Kiritimati", "b": "Etc/GMT+12", "c": "UTC"}
    assert local_today(utc("2026-03-01 11:00"), zones) == {
        "a": date(2026, 3, 2),
        "b": date(2026, 2, 28),
        "c": date(2026, 3, 1),
    }


# --- the estimate -------------------------------------------------------------------------------


def _estimates(*rows: dict[str, object]) -> list[int]:
    return list(listened_ms(plays_frame(list(rows))))


SECOND = timedelta(seconds=1)
NOON = utc("2026-03-01 12:00")


@pytest.mark.parametrize(
    ("since", "heard"),
    [(0, 300), (29.999, 300), (30, 30), (100, 100), (299.999, 299.999), (300, 300), (9_000, 300)],
)
def test_an_api_play_counts_no_more_than_the_time_since_the_play_before(since, heard):
    assert _estimates(
        play(NOON, track_id="before", duration_ms=1_000),
        play(NOON + since * SECOND, duration_ms=300_000),
    ) == [1_000, round(heard * 1000)]


def test_measured_time_is_not_capped_but_caps_the_next_play():
    assert _estimates(
        play(NOON, duration_ms=300_000),
        play(NOON + 50 * SECOND, ms_played=250_000),
        play(NOON + 90 * SECOND, duration_ms=300_000),
    ) == [300_000, 250_000, 40_000]


def test_another_users_play_does_not_cap_the_listened_time():
    assert _estimates(play(NOON, user_id="anna"), play(NOON + 100 * SECOND, user_id="bert")) == [
        200_000,
        200_000,
    ]


def test_a_play_of_unknown_length_counts_no_time_but_is_a_play():
    day = _one_day(play(NOON, duration_ms=None))
    assert (day["minutes"], day["listened_ms"], day["plays"]) == (0, 0, 1)


def test_the_play_before_midnight_caps_the_first_play_of_the_day():
    rows = plays_frame(
        [
            play(utc("2026-03-01 23:59"), track_id="b"),
            play(utc("2026-03-02 00:01"), duration_ms=300_000),
        ]
    )
    (day,) = records(daily_listening(rows, {"anna": "UTC"}, touched_by=rows.iloc[[1]]))
    assert (day["date"], day["listened_ms"]) == (date(2026, 3, 2), 120_000)


@given(listening())
def test_the_estimate_is_that_of_a_plain_loop_in_any_order(case):
    plays, _ = case
    expected = _listened(plays)
    estimates = listened_ms(plays.sample(frac=1, random_state=1))
    for index, row in plays.iterrows():
        key = (row["played_at"].to_pydatetime(), row["track_id"])
        assert estimates[index] == expected[row["user_id"]][key]
