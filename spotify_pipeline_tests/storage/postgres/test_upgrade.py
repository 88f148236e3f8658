"""init-db on a database of an older version, and on one that is in use."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.checks.inspection import differences
from spotify_pipeline.storage.postgres import schema
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import (
    SchemaBusy,
    SchemaOutdated,
    check_revision,
    init_db,
)
from spotify_pipeline_tests.storage.postgres.catalog import describe
from spotify_pipeline_tests.storage.rows import NOON, add_track, add_user, request_sync

# The tables, constraints and triggers that the migrations up to 0007 made. It never changes.
REVISION_0007 = Path(__file__).with_name("revision_0007.sql").read_text(encoding="utf-8")
FILLED_BY_INIT_DB = {"time_zones", "day_starts"}
MINUTE = timedelta(minutes=1)


@pytest.fixture
def outdated(empty_database: URL) -> Iterator[Engine]:
    """A database at revision 0007, with the functions and views that such a one has."""
    engine = make_engine(empty_database)
    with engine.begin() as conn:
        conn.exec_driver_sql(REVISION_0007, execution_options={"no_parameters": True})
        # Today's functions read tables that 0007 did not have, and so do these views.
        conn.execute(text("SET LOCAL check_function_bodies = off"))
        later = ("metrics.sql", "top_lists.sql")
        schema._run_scripts(conn, *(name for name in schema.SCRIPTS if name not in later))
        conn.execute(insert(t.time_zones), [{"name": "UTC"}, {"name": "Europe/Oslo"}])
    yield engine
    engine.dispose()


def add_rows(conn: Connection) -> None:
    """A connected user with plays, a day, coverage, a gap and an open request."""
    user = {"user_id": add_user(conn, "ada", timezone="Europe/Oslo", display_name="Ada")}
    track = add_track(conn)
    token = {"client_id": "c", "sealed_refresh_token": b"s", "key_id": "k", "scopes": ["a", "b"]}
    conn.execute(insert(t.user_tokens).values(**user, **token, authorized_at=NOON))
    conn.execute(insert(t.artists).values(spotify_id="artist", name="Artist", genres=["pop"]))
    for minutes in range(3):
        played_at = NOON + minutes * MINUTE
        conn.execute(
            insert(t.plays).values(**user, played_at=played_at, track_id=track, source="api")
        )
    counts = dict.fromkeys(("minutes", "plays", "unique_tracks", "unique_artists"), 1)
    conn.execute(insert(t.daily_listening).values(**user, **counts, date=NOON, listened_ms=200_000))
    cover = insert(t.coverage).values(**user, covered_from=NOON, covered_to=NOON + MINUTE)
    conn.execute(cover.inline())  # returns no column that is younger than the revision
    conn.execute(
        insert(t.listening_gaps).values(
            **user, gap_start=NOON - MINUTE, gap_end=NOON, detected_at=NOON
        )
    )
    conn.execute(text("UPDATE spotify_pipeline.settings SET request_cooldown = '5 minutes'"))
    request_sync(conn, "ada")


def add_lists_of_0007(conn: Connection) -> None:
    """The user's top lists, in the tables that held them line by line."""
    user, track = {"user_id": "ada"}, "song"
    conn.execute(
        insert(t.user_top_artists).values(
            **user, time_range="short_term", rank=1, spotify_id="artist", name="A", fetched_at=NOON
        )
    )
    for table, rank, spotify_id, start, end in (
        (t.top_artists_history, 1, "b", NOON - MINUTE, NOON),
        (t.top_artists_history, 2, "a", NOON - MINUTE, NOON),
        (t.top_artists_history, 1, "artist", NOON, None),
        (t.top_tracks_history, 1, track, NOON, None),
    ):
        line = {**user, "time_range": "short_term", "rank": rank, "spotify_id": spotify_id}
        conn.execute(insert(table).values(**line, valid_from=start, valid_to=end))


Columns = dict[str, list[str]]


# Of listening_tallies: a summary of the stored days.
DROPPED = {"streaks_before", "streak_days", "longest_streak", "longest_streak_artist_id"}


def columns_of(conn: Connection) -> Columns:
    """The columns that the database has now, by table, without those that a migration drops."""
    found = inspect(conn)
    return {
        name: [
            column["name"]
            for column in found.get_columns(name, schema=t.SCHEMA)
            if name != "listening_tallies" or column["name"] not in DROPPED
        ]
        for name in found.get_table_names(schema=t.SCHEMA)
        if name not in FILLED_BY_INIT_DB | {"alembic_version"}
    }


def read_all(conn: Connection, columns: Columns) -> dict[str, list[Any]]:
    rows = {}
    for name, names in columns.items():
        fullname = f"{t.SCHEMA}.{name}"
        # What was a table may be a view now.
        table = t.metadata.tables.get(fullname, t.views.tables.get(fullname))
        assert table is not None
        found = conn.execute(select(*(table.c[column] for column in names))).all()
        rows[name] = sorted(found, key=str)
    return rows


def test_a_database_at_revision_0007_becomes_a_new_one_and_keeps_every_row(
    outdated: Engine, connection: Connection
) -> None:
    with outdated.begin() as conn:
        # Today's trigger function writes a column that is younger than the revision.
        conn.execute(text("ALTER TABLE spotify_pipeline.plays DISABLE TRIGGER tally_new_plays"))
        add_rows(conn)
        conn.execute(text("ALTER TABLE spotify_pipeline.plays ENABLE TRIGGER tally_new_plays"))
        columns = columns_of(conn)
        before = read_all(conn, columns)
    init_db(outdated)
    check_revision(outdated)
    with outdated.connect() as conn:
        assert read_all(conn, columns) == before
        assert len(before["plays"]) == 3
        assert [
            line for table in t.metadata.sorted_tables for line in differences(conn, table)
        ] == []
        upgraded, new = describe(conn), describe(connection)
        for what in new:
            assert upgraded[what] == new[what], what


def test_a_schema_before_the_oldest_migration_is_refused_with_the_remedy(
    outdated: Engine,
) -> None:
    with outdated.begin() as conn:
        conn.execute(text("UPDATE spotify_pipeline.alembic_version SET version_num = '0004'"))
    for use in (init_db, check_revision):
        with pytest.raises(SchemaOutdated, match=r"revision 0004.* earlier spotify_pipeline"):
            use(outdated)


WAITING = text(
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
READ = text("SELECT * FROM spotify_pipeline.sync_status")


def until_waiting(conn: Connection, number: int) -> None:
    for _ in range(1_000):
        if conn.scalar(WAITING) >= number:
            return
        time.sleep(0.02)
    raise AssertionError(f"{conn.scalar(WAITING)} sessions wait, not {number}")


def test_a_lock_that_is_never_released_is_an_error_after_a_few_tries(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT", "50ms")
    pauses: list[float] = []
    with engine.connect() as app:
        app.execute(READ)
        with pytest.raises(SchemaBusy, match="nothing was changed"):
            init_db(engine, pauses.append)
        assert len(pauses) == schema.TRIES - 1
        init_db(engine, lambda _: app.rollback())


def test_reading_the_status_and_replacing_its_view_lock_in_the_same_order(
    engine: Engine,
) -> None:
    with ThreadPoolExecutor(1) as other, engine.connect() as look:
        with engine.begin() as reader:
            # A reader who has come as far as sync_status, and to request_cooldown not yet.
            reader.execute(text("ALTER VIEW spotify_pipeline.sync_status RESET (check_option)"))
            init = other.submit(init_db, engine)
            until_waiting(look, 1)
            reader.execute(text("SET LOCAL lock_timeout = '500ms'"))
            reader.execute(text("SELECT * FROM spotify_pipeline.request_cooldown"))
        init.result(60)


def test_a_deadlock_with_an_app_is_tried_again(engine: Engine) -> None:
    pauses: list[float] = []
    with ThreadPoolExecutor(1) as other, engine.connect() as look:
        # The other way round, and in one transaction. Either of the two may be the victim.
        with engine.connect() as app:
            app.execute(text("SELECT * FROM spotify_pipeline.request_cooldown"))
            init = other.submit(init_db, engine, pauses.append)
            until_waiting(look, 1)
            try:
                app.execute(READ)
            except DBAPIError:
                pauses.append(0)
        init.result(60)
    assert len(pauses) == 1
