"""Every rule holds for what a sync stores, and notices the rows that break it."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta

import pytest
from sqlalchemy import Connection, Engine, insert, text, update

from spotify_pipeline.domain.model import TIME_RANGES
from spotify_pipeline.domain.personality.definition import METRICS
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.checks import queries
from spotify_pipeline.storage.checks.inspection import differences
from spotify_pipeline.storage.checks.rules import (
    RULES,
    all_users,
    count_violations,
    slice_of_the_hour,
    users_violating,
)
from spotify_pipeline.storage.listening.counters import recount
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline_tests.conftest import temporary_database
from spotify_pipeline_tests.storage.rows import NOON, add_top, add_track, add_user

ARTIST, ANNA, BEN = "artist", "anna", "ben"


@pytest.fixture(scope="module")
def two_users(_admin: Engine, _template: str) -> Iterator[Engine]:
    """Two users in zones far apart, with a play, its day, all lists and a personality each."""
    with temporary_database(_admin, _template) as url:
        engine = make_engine(url)
        with engine.begin() as db:
            add_track(db)
            db.execute(insert(t.artists).values(spotify_id=ARTIST, name="Artist"))
            add_user_with_rows(db, ANNA, "Pacific/Auckland", date(2026, 3, 15))
            add_user_with_rows(db, BEN, "America/Los_Angeles", date(2026, 3, 14))
        yield engine
        engine.dispose()


@pytest.fixture
def db(two_users: Engine) -> Iterator[Connection]:
    """A transaction that is rolled back, without triggers, as in a restore without them.

    So no foreign key is checked, and no counter changes.
    """
    with two_users.connect() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        yield connection


def add_user_with_rows(db: Connection, user_id: str, zone: str, day: date) -> None:
    add_user(db, user_id, timezone=zone)
    add_play(db, user_id)
    add_day(db, user_id, day)
    for time_range in TIME_RANGES:
        add_top(db, "artists", user_id, 1, ARTIST, time_range=time_range)
        add_top(db, "tracks", user_id, 1, "song", time_range=time_range)
    db.execute(insert(t.music_personality).values(personality(user_id)))
    db.execute(insert(t.user_tokens).values(token(user_id)))
    db.execute(
        update(t.sync_state)
        .where(t.sync_state.c.user_id == user_id)
        .values(next_due_at=NOON, tops_fetched_at=NOON)
    )


def add_play(db: Connection, user_id: str, minutes_ago: int = 0, **values: object) -> None:
    at = NOON - timedelta(minutes=minutes_ago)
    play = {
        "user_id": user_id,
        "played_at": at,
        "track_id": "song",
        "source": "api",
        "artist_id": ARTIST,
        "duration_ms": 200_000,
    }
    db.execute(insert(t.plays).values(play | values))


def add_day(db: Connection, user_id: str, day: date, **values: object) -> None:
    row = {"user_id": user_id, "date": day, "minutes": 3, "listened_ms": 200_000, "plays": 1}
    row |= {"unique_tracks": 1, "unique_artists": 1}
    row |= {"top_track_id": "song", "top_artist_id": ARTIST}
    db.execute(insert(t.daily_listening).values(row | values))


def personality(user_id: str, **values: object) -> dict[str, object]:
    missing = {metric.column: "too little" for metric in METRICS}
    row = {"user_id": user_id, "window_start": date(2026, 2, 15), "reasons": missing}
    row |= {"window_end": date(2026, 3, 14), "play_count": 60, "unique_artists": 3}
    return row | {"definition_version": 1} | values


def token(user_id: str) -> dict[str, object]:
    row = {"user_id": user_id, "client_id": "app", "sealed_refresh_token": b"sealed"}
    return row | {"key_id": "k1", "authorized_at": NOON}


def broken(db: Connection) -> dict[str, int]:
    """The names of the rules that do not hold, with how many users break each."""
    scope = all_users(db, NOON)
    found = {rule.name: count_violations(db, rule, scope) for rule in RULES}
    return {name: violations.users for name, violations in found.items() if violations.rows}


Plant = Callable[[Connection], object]

OF_ANNA = "user_id = 'anna'"
HER_SHORT_LIST = f"{OF_ANNA} AND time_range = 'short_term'"


def sql(*statements: str) -> Plant:
    """Statements written by hand."""

    def plant(db: Connection) -> None:
        for statement in statements:
            db.execute(text(statement.replace(" our.", " spotify_pipeline.")))

    return plant


def change(table: str, values: str, where: str = OF_ANNA) -> Plant:
    return sql(f"UPDATE our.{table} SET {values} WHERE {where}")


def night_share(value: str) -> Plant:
    return sql(
        "ALTER TABLE our.music_personality DROP CONSTRAINT ck_music_personality_night_share",
        f"UPDATE our.music_personality SET night_share = {value} WHERE {OF_ANNA}",
    )


TABLES = t.metadata.sorted_tables
UNCOUNTED = "tallies_are_right"


def second_play_of_that_recording(db: Connection) -> None:
    add_play(db, ANNA, track_id="other")
    db.execute(
        insert(t.tracks).values(spotify_id="other", name="Song", duration_ms=1, artist_ids=[ARTIST])
    )
    change("daily_listening", "plays = 2, listened_ms = 400000, minutes = 7")(db)


PLANTED: dict[str, tuple[Plant, set[str]]] = {
    "a recording twice at one instant": (
        second_play_of_that_recording,
        {"no_duplicate_plays", UNCOUNTED},
    ),
    "a play without its day": (
        lambda db: add_play(db, ANNA, minutes_ago=24 * 60),
        {"days_sum_to_plays", UNCOUNTED},
    ),
    "a day without plays": (
        lambda db: add_day(db, ANNA, date(2026, 3, 10)),
        {"days_sum_to_plays", UNCOUNTED},
    ),
    "a number of plays that is not theirs": (change("listening_tallies", "plays = 0"), {UNCOUNTED}),
    "no numbers at all": (sql(f"DELETE FROM our.listening_tallies WHERE {OF_ANNA}"), {UNCOUNTED}),
    "a zone that tzdata does not have": (
        change("users", "timezone = 'Mars/Base'"),
        {"zones_are_known", "no_orphan_rows"},
    ),
    "a play twice under one key": (
        sql(
            "ALTER TABLE our.plays DROP CONSTRAINT pk_plays CASCADE",
            f"INSERT INTO our.plays SELECT * FROM our.plays WHERE {OF_ANNA}",
            f"UPDATE our.daily_listening SET plays = 2, minutes = 7, listened_ms = 400000"
            f" WHERE {OF_ANNA}",
            f"UPDATE our.listening_tallies SET plays = 2 WHERE {OF_ANNA}",
        ),
        {"keys_are_unique"},
    ),
    "a day on the wrong side of midnight": (
        change("daily_listening", "date = '2026-03-14'"),
        {"days_sum_to_plays"},
    ),
    "minutes that are not the milliseconds": (
        change("daily_listening", "minutes = 4"),
        {"days_sum_to_plays"},
    ),
    "more minutes than the day has": (
        change("daily_listening", "minutes = 1561, listened_ms = 93660000"),
        {"days_sum_to_plays", "minutes_fit_in_the_day"},
    ),
    "a list with a hole": (
        lambda db: add_top(db, "artists", ANNA, 3, ARTIST),
        {"ranks_are_contiguous"},
    ),
    "a list that Spotify sent empty": (
        change("top_lists", "fetched_at = fetched_at - interval '1 day'", HER_SHORT_LIST),
        {"lists_are_not_empty"},
    ),
    "a list that was never sent": (
        sql(f"DELETE FROM our.top_list_artists WHERE {HER_SHORT_LIST}"),
        {"lists_are_not_empty"},
    ),
    "a play of nobody": (
        lambda db: add_play(db, "ghost"),
        {"no_orphan_rows"},
    ),
    "a line of nobody, in the list of whatever time range": (
        lambda db: add_top(db, "artists", "ghost", 1, ARTIST, time_range="long_term"),
        {"no_orphan_rows"},
    ),
    "a play of a track that is not stored": (
        change("plays", "track_id = 'lost'"),
        {"no_orphan_rows"},
    ),
    "a day with a lost artist": (
        change("daily_listening", "top_artist_id = 'lost'"),
        {"no_orphan_rows"},
    ),
    "a list with a lost artist": (
        change("top_list_artists", "spotify_id = 'lost'", HER_SHORT_LIST),
        {"no_orphan_rows"},
    ),
    "a personality of nobody": (
        lambda db: db.execute(insert(t.music_personality).values(personality("ghost"))),
        {"no_orphan_rows"},
    ),
    "a share above 1": (
        night_share("1.5"),
        {"values_are_in_range"},
    ),
    "a share that is no number": (
        night_share("'NaN'"),
        {"values_are_in_range"},
    ),
    "NULL without a reason": (
        change("music_personality", "reasons = reasons - 'newness'"),
        {"metrics_are_in_range"},
    ),
    "more artists in effect than artists": (
        change("music_personality", "effective_artists = 4"),
        {"metrics_are_in_range"},
    ),
    "a window of another length": (
        change("music_personality", "window_start = window_start - 1"),
        {"metrics_are_in_range"},
    ),
    "a user due for two hours": (
        change("sync_state", "next_due_at = next_due_at - interval '2 hours'"),
        {"users_are_polled_in_time"},
    ),
    "a user who was fetched in 40 days": (
        change("sync_state", "plays_fetched_at = '2100-01-01Z'"),
        {"no_instants_of_the_future"},
    ),
    "a user who is covered in 40 days": (
        lambda db: db.execute(
            insert(t.coverage).values(
                user_id=ANNA, covered_from=NOON, covered_to=NOON + timedelta(days=40)
            )
        ),
        {"no_instants_of_the_future"},
    ),
    "a user due in 40 days": (
        change("sync_state", "next_due_at = '2100-01-01Z'"),
        {"no_instants_of_the_future"},
    ),
    "a request that no run serves": (
        lambda db: db.execute(
            text(
                "INSERT INTO spotify_pipeline.sync_requests (user_id, requested_at)"
                " VALUES ('anna', now() - interval '6 minutes')"
            )
        ),
        {"requests_are_served"},
    ),
    "a handed over history that no run imports": (
        lambda db: db.execute(
            text(
                "INSERT INTO spotify_pipeline.history_imports (user_id, status, closed_at, files)"
                " VALUES ('anna', 'closed', now() - interval '61 minutes', '[]')"
            )
        ),
        {"uploads_are_imported"},
    ),
    "nobody any more, but still named": (
        lambda db: db.execute(
            insert(t.forgotten).values(user_id="ghost", forgotten_at=NOON - timedelta(hours=2))
        ),
        {"forgotten_users_are_gone"},
    ),
    "a gap of yesterday": (
        lambda db: db.execute(
            insert(t.listening_gaps).values(
                user_id=ANNA,
                gap_start=NOON - timedelta(hours=30),
                gap_end=NOON - timedelta(hours=26),
                detected_at=NOON - timedelta(hours=25),
            )
        ),
        {"no_new_gaps"},
    ),
    "a user refused while many others are": (
        change("users", "connection = 'suspect'"),
        {"no_connection_is_suspect"},
    ),
    "a user whom Spotify refuses": (
        change("users", "connection = 'needs_reauth'"),
        {"no_user_has_to_reconnect"},
    ),
}


def test_every_rule_holds_for_right_rows(db: Connection) -> None:
    assert broken(db) == {}


@pytest.mark.parametrize("what", PLANTED)
def test_a_rule_detects(db: Connection, what: str) -> None:
    plant, expected = PLANTED[what]
    plant(db)
    assert broken(db) == dict.fromkeys(expected, 1)
    owner = {"ghost"} if "nobody" in what else {ANNA}
    for name in expected:
        assert set(users_violating(db, name, NOON)) == owner


def test_every_rule_has_a_violating_case() -> None:
    assert {rule.name for rule in RULES} == set().union(*(names for _, names in PLANTED.values()))


def test_self_healing_states_violate_no_rule(db: Connection) -> None:
    """Days that wait for a rebuild, a long day, an old gap, a new user without lists."""
    add_play(db, ANNA, minutes_ago=24 * 60)
    change("users", "days_stale = true")(db)
    old = NOON - timedelta(days=8)
    db.execute(
        insert(t.listening_gaps).values(
            user_id=ANNA, gap_start=old - timedelta(hours=1), gap_end=old, detected_at=old
        )
    )
    add_user(db, "carl")
    sql("INSERT INTO our.sync_state (user_id, tops_fetched_at) VALUES ('carl', '2026-01-01Z')")(db)
    db.execute(insert(t.music_personality).values(personality("carl", play_count=12)))
    recount(db, [ANNA, "carl"])
    assert broken(db) == {}


def test_a_user_in_an_unknown_zone_hides_no_violation_of_other_users(
    db: Connection,
) -> None:
    change("users", "timezone = 'Mars/Base'")(db)
    change("daily_listening", "minutes = 1561, listened_ms = 93660000", "true")(db)
    wrong = ("days_sum_to_plays", "minutes_fit_in_the_day", "zones_are_known")
    assert broken(db) == dict.fromkeys((*wrong, "no_orphan_rows"), 1)
    assert [users_violating(db, name, NOON) for name in wrong] == [[BEN], [BEN], [ANNA]]


def test_every_user_is_called_within_each_slice(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "SLICE_USERS", 10)
    sql(
        "INSERT INTO our.users (user_id) SELECT 'user ' || n FROM generate_series(1, 98) AS n",
        "INSERT INTO our.daily_listening (user_id, date, minutes, listened_ms, plays,"
        " unique_tracks, unique_artists)"
        " SELECT 'user ' || n, '2026-03-14', 1, 60000, 1, 1, 1 FROM generate_series(1, 98) AS n",
    )(db)
    (rule,) = (rule for rule in RULES if rule.name == "days_sum_to_plays")
    hours = [slice_of_the_hour(db, NOON + timedelta(hours=hour)) for hour in range(10)]
    found = [count_violations(db, rule, scope).users for scope in hours]
    assert sum(found) == 98
    assert max(found) < 30
    # What the check in Dagster and `doctor` say of it. Anna and Ben are users too.
    parts, words = zip(*(scope.words.split(" ", 1) for scope in hours), strict=True)
    assert sum(map(int, parts)) == 100
    assert set(words) == {"of 100 users; every hour looks at others, 10 hours look at all"}


def test_differences_of_a_changed_table_are_listed_without_its_data(db: Connection) -> None:
    assert {table.name: differences(db, table) for table in TABLES} == {
        table.name: [] for table in TABLES
    }
    sql(
        "DROP VIEW our.listens",
        "ALTER TABLE our.plays ADD COLUMN mood text, DROP COLUMN context_uri",
        "ALTER TABLE our.plays ALTER COLUMN source DROP NOT NULL, DISABLE TRIGGER ALL",
        "DROP INDEX our.ix_plays_incomplete",
        "ALTER TABLE our.music_personality DROP CONSTRAINT ck_music_personality_counts",
    )(db)
    assert differences(db, t.plays) == [
        "ix_plays_incomplete is missing",
        "the column context_uri is missing",
        "the column mood is not ours",
        "the column source is TEXT NULL, not TEXT NOT NULL",
        "triggers are switched off",
    ]
    assert differences(db, t.music_personality) == ["ck_music_personality_counts is missing"]
