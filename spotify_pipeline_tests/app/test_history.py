"""listening_history: a row for every day, each with its completeness."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.app import Day, Refused, incomplete_days, listening_history
from spotify_pipeline.domain.listening.coverage import Interval, completeness, local_day, merge
from spotify_pipeline.domain.listening.days import local_today
from spotify_pipeline.domain.zones import all_zones, check_zone
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import add_track, add_user, cause

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Zones with difficult days: far east, far west, half hours, clock changes.
ZONES = ("Pacific/Kiritimati", "Pacific/Niue", "Asia/Kathmandu", "Europe/Oslo", "America/Havana")


def add_day(connection: Connection, day: date, **columns: object) -> None:
    values = {"minutes": 3, "listened_ms": 200_000, "plays": 1}
    counted = {"unique_tracks": 1, "unique_artists": 1, "completeness": "at_least"}
    connection.execute(
        insert(t.daily_listening).values(user_id="ada", date=day, **values | counted | columns)
    )


def cover(connection: Connection, *covers: Interval) -> None:
    for cover in covers:
        connection.execute(
            insert(t.coverage).values(user_id="ada", covered_from=cover.start, covered_to=cover.end)
        )


def open_gap(connection: Connection, gap: Interval) -> None:
    connection.execute(
        insert(t.listening_gaps).values(
            user_id="ada", gap_start=gap.start, gap_end=gap.end, detected_at=gap.end
        )
    )


def fetched(connection: Connection, at: datetime) -> None:
    connection.execute(update(t.sync_state).values(plays_fetched_at=at))


def shown(day: Day) -> tuple[int | None, int | None, str]:
    return day.minutes, day.plays, day.completeness


def test_days_of_a_user_who_was_never_synced_are_unknown(
    app: Connection, connection: Connection
) -> None:
    add_user(connection)
    days = listening_history(app, "ada", 3)
    assert [shown(day) for day in days] == [(None, None, "unknown")] * 3


def test_a_quiet_day_is_0_minutes_only_when_every_play_of_it_would_be_known(
    app: Connection, connection: Connection
) -> None:
    add_user(connection)
    now = datetime.now(UTC)
    cover(connection, Interval(now - 10 * DAY, now))
    fetched(connection, now)
    days = listening_history(app, "ada", 12)
    assert days[-1].date == now.date()
    # Today touches coverage; yesterday is complete from 6 hours after its end on.
    assert shown(days[-1]) == (None, None, "at_least")
    assert {shown(day) for day in days[2:-2]} == {(0, 0, "complete")}
    assert shown(days[1]) == (None, None, "at_least")
    assert shown(days[0]) == (None, None, "unknown")
    open_gap(connection, Interval(now - 5 * DAY, now - 5 * DAY + HOUR))
    assert shown(listening_history(app, "ada", 12)[-6]) == (None, None, "at_least")
    connection.execute(update(t.listening_gaps).values(closed_at=now, closed_by="import"))
    assert shown(listening_history(app, "ada", 12)[-6]) == (0, 0, "complete")


def test_a_quiet_day_is_complete_from_a_fetch_6_hours_after_its_end_on(
    app: Connection, connection: Connection
) -> None:
    add_user(connection, timezone="Asia/Kathmandu")
    now = datetime.now(UTC)
    cover(connection, Interval(now - 10 * DAY, now))
    day = now.date() - 4 * DAY
    end = local_day(day, check_zone("Asia/Kathmandu")).end

    def completeness_of_that_day() -> str:
        return {d.date: d.completeness for d in listening_history(app, "ada", 8)}[day]

    fetched(connection, end + 6 * HOUR - timedelta.resolution)
    assert completeness_of_that_day() == "at_least"
    fetched(connection, end + 6 * HOUR)
    assert completeness_of_that_day() == "complete"


def test_a_day_with_a_play_shows_what_is_stored(app: Connection, connection: Connection) -> None:
    add_user(connection)
    add_track(connection)
    connection.execute(insert(t.artists).values(spotify_id="artist", name="Artist"))
    today = datetime.now(UTC).date()
    add_day(connection, today - 2 * DAY, top_track_id="song", top_artist_id="artist")
    add_day(connection, today - DAY, top_track_id="gone", top_artist_id="gone")
    # A play of 20 seconds: a row, but the day's minutes are not known to be complete.
    add_day(connection, today, minutes=0, plays=0, listened_ms=20_000)
    assert listening_history(app, "ada", 3) == [
        Day(today - 2 * DAY, 3, 1, "song", "Song", "artist", "Artist", "at_least"),
        Day(today - DAY, 3, 1, "gone", None, "gone", None, "at_least"),
        Day(today, None, 0, None, None, None, None, "at_least"),
    ]


def test_while_days_are_stale_none_is_complete(app: Connection, connection: Connection) -> None:
    add_user(connection)
    now = datetime.now(UTC)
    cover(connection, Interval(now - 10 * DAY, now))
    fetched(connection, now)
    add_day(connection, now.date() - 3 * DAY, completeness="complete")
    assert shown(listening_history(app, "ada", 4)[0]) == (3, 1, "complete")
    connection.execute(update(t.users).values(timezone="Europe/Oslo"))
    days = listening_history(app, "ada", 8)
    assert "complete" not in {day.completeness for day in days}
    assert 0 not in {day.minutes for day in days}


@pytest.mark.parametrize("days", [1, 2, 365, 10_000])
def test_there_are_exactly_as_many_days_as_were_asked_for_without_a_hole(
    app: Connection, connection: Connection, days: int
) -> None:
    add_user(connection, timezone="America/Havana")
    dates = [day.date for day in listening_history(app, "ada", days)]
    assert dates == [dates[-1] - DAY * back for back in reversed(range(days))]


@pytest.mark.parametrize("days", [0, -1, 10_001, 2**31 - 1])
def test_an_invalid_number_of_days_is_refused_in_a_sentence(
    app: Connection, connection: Connection, days: int
) -> None:
    add_user(connection)
    with pytest.raises(DBAPIError, match="must be from 1 to 10000") as refused:
        listening_history(app, "ada", days)
    assert cause(refused.value).sqlstate == "22023"


def test_null_days_and_unknown_users_are_refused(app: Connection, connection: Connection) -> None:
    with pytest.raises(Refused) as unknown:
        listening_history(app, "nobody", 7)
    assert unknown.value.sqlstate == "SP404"
    with pytest.raises(DBAPIError, match="must be from 1 to 10000"):
        app.execute(text("SELECT * FROM spotify_pipeline.listening_history('nobody', NULL)"))


def test_today_is_the_date_in_the_users_zone_by_the_pinned_rules(connection: Connection) -> None:
    connection.execute(
        insert(t.users), [{"user_id": name, "timezone": name} for name in all_zones()]
    )
    rows = connection.execute(
        text(
            "SELECT u.user_id, h.date, now() FROM spotify_pipeline.users AS u,"
            " LATERAL spotify_pipeline.listening_history(u.user_id, 1) AS h"
        )
    ).all()
    today = local_today(rows[0].now, {name: name for name in all_zones()})
    assert {row.user_id: row.date for row in rows} == today
    assert len(set(today.values())) > 1


class Known(NamedTuple):
    """A user's coverage and plays, in hours before now."""

    covers: Sequence[tuple[int, int]]
    gaps: Sequence[tuple[int, int]]
    fetched: int | None
    plays: Sequence[int]


hours = st.integers(0, 24 * 12)
intervals = st.lists(st.tuples(hours, hours).filter(lambda pair: pair[0] > pair[1]), max_size=3)
knowledge = st.builds(
    Known,
    covers=intervals,
    gaps=intervals,
    fetched=st.none() | st.integers(0, 72),
    plays=st.lists(st.integers(0, 11), max_size=3, unique=True),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(ZONES), knowledge)
def test_every_day_is_as_complete_as_the_rule_of_the_pipeline_says(
    connection: Connection, zone: str, known: Known
) -> None:
    connection.execute(delete(t.users))
    add_user(connection, timezone=zone)
    now = connection.scalar(select(func.now()))
    assert now is not None

    def interval(pair: tuple[int, int]) -> Interval:
        return Interval(now - pair[0] * HOUR, now - pair[1] * HOUR)

    covers = merge([interval(pair) for pair in known.covers])
    gaps = {gap.start: gap for gap in map(interval, known.gaps)}
    cover(connection, *covers)
    for gap in gaps.values():
        open_gap(connection, gap)
    fetched_at = None if known.fetched is None else now - known.fetched * HOUR
    if fetched_at:
        fetched(connection, fetched_at)
    today = local_today(now, {"ada": zone})["ada"]
    for back in known.plays:
        add_day(connection, today - back * DAY)

    days = listening_history(connection, "ada", 12)
    assert [day.date for day in days] == [today - back * DAY for back in reversed(range(12))]
    for day in days:
        if (today - day.date).days in known.plays:
            assert shown(day) == (3, 1, "at_least")
            continue
        expected = completeness(
            local_day(day.date, check_zone(zone)),
            covers,
            list(gaps.values()),
            fetched_at,
            has_play=False,
        )
        number = 0 if expected == "complete" else None
        assert shown(day) == (number, number, expected)


def test_every_day_that_is_not_complete_has_its_reason(
    app: Connection, connection: Connection
) -> None:
    add_user(connection)
    now = datetime.now(UTC)
    midnight = datetime.combine(now.date(), datetime.min.time(), UTC)
    assert set(incomplete_days(app, "ada", 3).values()) == {"today", "before"}
    cover(
        connection,
        Interval(midnight - 10 * DAY + HOUR, midnight - 6 * DAY - HOUR),
        Interval(midnight - 6 * DAY + HOUR, now),
    )
    open_gap(connection, Interval(midnight - 4 * DAY + HOUR, midnight - 4 * DAY + 2 * HOUR))
    fetched(connection, midnight - DAY)
    reasons = incomplete_days(app, "ada", 12)
    days_ago = {(now.date() - day).days: reason for day, reason in reasons.items()}
    assert days_ago == {
        **{0: "today", 1: "late", 2: "late"},
        4: "gap",
        **{6: "missed", 7: "missed", 10: "missed"},
        11: "before",
    }
    connection.execute(update(t.users).values(days_stale=True))
    assert incomplete_days(app, "ada", 3)[now.date() - DAY] == "recount"
    incomplete = {d.date for d in listening_history(app, "ada", 12) if d.completeness != "complete"}
    assert set(incomplete_days(app, "ada", 12)) == incomplete
    assert incomplete_days(app, "unknown", 3) == {}
