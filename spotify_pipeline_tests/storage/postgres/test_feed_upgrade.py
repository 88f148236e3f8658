"""A database of the version before the 7-day window and re-stamped plays were known."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, select, text

from spotify_pipeline.domain.listening.coverage import SERVED_WINDOW
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.coverage import read_coverage
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline.sync.days import refresh_days
from spotify_pipeline.sync.plays import StoredUser
from spotify_pipeline_tests import expected_listening

NOW = datetime(2026, 5, 27, 12, tzinfo=UTC)
MINUTE, SECOND, DAY = timedelta(minutes=1), timedelta(seconds=1), timedelta(days=1)
USERS = ("doubled", "burst", "silent", "quiet", "looping")

PLAY = text(
    "INSERT INTO spotify_pipeline.plays (user_id, played_at, track_id, source)"
    " VALUES (:user_id, :played_at, :track_id, 'api')"
)
PAGE = text(
    "INSERT INTO spotify_pipeline.fetch_log (user_id, fetched_at, items, new_plays,"
    " oldest_item_at, newest_item_at, overlapped)"
    " VALUES (:user_id, :at, :items, 0, :oldest, :oldest, true)"
)


def add_plays(conn: Connection, user_id: str, *plays: tuple[datetime, str]) -> None:
    for played_at, track_id in plays:
        conn.execute(PLAY, {"user_id": user_id, "played_at": played_at, "track_id": track_id})


def session(count: int, shift: float = 0) -> list[tuple[datetime, str]]:
    """Plays of 5 minutes, one after another; some tracks come twice."""
    start = NOW - 10 * 60 * MINUTE
    return [
        (start + 5 * n * MINUTE + shift * SECOND + 1.5 * n * SECOND * bool(shift), f"t{n % 15}")
        for n in range(count)
    ]


@pytest.fixture
def outdated(empty_database: URL) -> Iterator[Engine]:
    engine = make_engine(empty_database)
    with engine.begin() as conn:
        conn.execute(text("CREATE SCHEMA spotify_pipeline"))
        config = Config()
        config.set_main_option("script_location", "spotify_pipeline.storage:migrations")
        config.attributes["connection"] = conn
        command.upgrade(config, "0004")
        # The functions of the triggers came with init-db; here the rows are put in as a dump does.
        conn.execute(text("SET LOCAL session_replication_role = replica"))
        for user_id in USERS:
            conn.execute(
                text("INSERT INTO spotify_pipeline.users (user_id) VALUES (:id)"), {"id": user_id}
            )
        for n in range(40):
            conn.execute(
                text(
                    "INSERT INTO spotify_pipeline.tracks"
                    " (spotify_id, name, duration_ms, artist_ids)"
                    " VALUES (:id, :name, 290000, ARRAY[:artist])"
                ),
                {"id": f"t{n}", "name": f"Song {n}", "artist": f"a{n % 4}"},
            )
        conn.execute(
            text(
                "INSERT INTO spotify_pipeline.tracks (spotify_id, name, duration_ms, artist_ids)"
                " VALUES ('emptied', '', 0, ARRAY['a0'])"
            )
        )
        add_plays(conn, "doubled", *session(39), *session(39, shift=-58))
        # Played offline, stamped at upload, one of them twice.
        burst = [(NOW - DAY + n * SECOND / 2, f"t{n % 7}") for n in range(9)]
        add_plays(conn, "burst", *burst, (NOW - 2 * DAY, "emptied"))
        # One short song again and again, heard for 40 s each: no pair is shifted by less than 30 s.
        loop = [(NOW - 2 * DAY + 40 * n * SECOND, "t1") for n in range(20)]
        add_plays(conn, "looping", *loop)
        for user_id, since in (
            ("doubled", session(1)[0][0]),
            ("silent", datetime(1970, 1, 1, tzinfo=UTC)),
            ("quiet", NOW - 20 * DAY),
        ):
            conn.execute(
                text("INSERT INTO spotify_pipeline.coverage VALUES (:user_id, :since, :until)"),
                {
                    "user_id": user_id,
                    "since": since,
                    "until": NOW if user_id != "quiet" else NOW - 13 * DAY,
                },
            )
        for hours in range(0, 48, 2):
            at = NOW - hours * 60 * MINUTE
            page = {"user_id": "silent", "at": at, "items": 0, "oldest": None}
            conn.execute(PAGE, page)
        # Ten silent days: pages were empty, and the first play after them opened a gap.
        add_plays(conn, "quiet", (NOW - 20 * DAY, "t1"), (NOW - MINUTE, "t2"))
        for hours in range(0, 13 * 24, 2):
            at = NOW - hours * 60 * MINUTE
            page = {"user_id": "quiet", "at": at, "items": 0, "oldest": None}
            if not hours:
                page |= {"items": 1, "oldest": NOW - MINUTE}
            conn.execute(PAGE, page)
        conn.execute(
            text(
                "INSERT INTO spotify_pipeline.listening_gaps"
                " (user_id, gap_start, gap_end, detected_at) VALUES ('quiet', :since, :until, :at)"
            ),
            {"since": NOW - 20 * DAY + MINUTE, "until": NOW - MINUTE, "at": NOW},
        )
    yield engine
    engine.dispose()


def plays(conn: Connection, user_id: str) -> list[tuple[datetime, str]]:
    p = t.plays
    rows = conn.execute(
        select(p.c.played_at, p.c.track_id).where(p.c.user_id == user_id).order_by(p.c.played_at)
    )
    return [(row.played_at, row.track_id) for row in rows]


def covers(conn: Connection, user_id: str) -> list[tuple[datetime, datetime]]:
    c = t.coverage
    rows = conn.execute(
        select(c.c.covered_from, c.c.covered_to)
        .where(c.c.user_id == user_id)
        .order_by(c.c.covered_from)
    )
    return [(row.covered_from, row.covered_to) for row in rows]


def test_an_upgrade_and_a_rebuild_bring_stored_data_to_the_rules_of_the_feed(
    outdated: Engine,
) -> None:
    init_db(outdated)
    with outdated.begin() as conn:
        stored = {user_id: plays(conn, user_id) for user_id in USERS}
        # Each doubled play once, and the other instant noted, so that no page doubles it again.
        assert len(stored["doubled"]) == 39
        moved = conn.execute(select(t.restamped_plays)).all()
        assert {row.user_id for row in moved} == {"doubled"}
        assert sorted(
            [(at, id_) for at, id_ in stored["doubled"]]
            + [(row.shown_at, row.shown_track_id) for row in moved]
        ) == sorted([*session(39), *session(39, shift=-58)])
        # What may be genuine stays.
        assert (len(stored["burst"]), len(stored["looping"])) == (10, 20)
        # No cover reaches back further than a page can.
        assert covers(conn, "silent") == [(NOW - 46 * 60 * MINUTE - SERVED_WINDOW, NOW)]
        assert covers(conn, "quiet") == [(NOW - 20 * DAY, NOW)]
        gap = conn.execute(select(t.listening_gaps)).one()
        assert (gap.closed_at is not None, gap.closed_by) == (True, "page")
        assert set(conn.scalars(select(t.users.c.user_id).where(t.users.c.days_stale))) == {
            "doubled",
            "burst",
            "quiet",
            "looping",
        }
        coverage = read_coverage(conn, USERS)
        users = [
            StoredUser(user_id, "UTC", coverage[user_id], plays_fetched_at=NOW, days_stale=True)
            for user_id in USERS
        ]
        refresh_days(conn, users, NOW)
        for user_id in USERS:
            facts = [
                (at, id_, None, None if id_ == "emptied" else 290_000)
                for at, id_ in stored[user_id]
            ]
            expected: dict[date, int] = {}
            for (at, _), ms in expected_listening.listened_ms(facts).items():
                expected[at.date()] = expected.get(at.date(), 0) + ms
            d = t.daily_listening
            days = conn.execute(
                select(d.c.date, d.c.listened_ms).where(d.c.user_id == user_id)
            ).all()
            assert {row.date: row.listened_ms for row in days} == expected
        counted = conn.execute(
            select(t.listening_tallies.c.user_id, t.listening_tallies.c.plays)
        ).all()
        assert {row.user_id: row.plays for row in counted} == {
            user_id: len(stored[user_id]) for user_id in USERS
        }
