"""Sign-in and profiles: who is whose user, and two sessions at once."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, insert, select, text

from spotify_pipeline.app import listening_discoveries
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import add_track, add_user, connect

SIGN_IN = "SELECT spotify_pipeline.sign_in_user(:account, :spotify_id, :name)"


def sign_in(conn: Connection, account: str, spotify_id: str, name: str | None = None) -> Any:
    statement = text(SIGN_IN)
    values = {"account": account, "spotify_id": spotify_id, "name": name}
    return conn.execute(statement, values).scalar_one()


def refusal(call: Callable[[], object]) -> str | None:
    with pytest.raises(Exception) as refused:  # noqa: PT011
        call()
    return getattr(refused.value.orig, "sqlstate", None)  # type: ignore[attr-defined]


def accounts(conn: Connection) -> dict[str, str | None]:
    u = t.users
    return {
        row.user_id: row.account_id for row in conn.execute(select(u.c.user_id, u.c.account_id))
    }


def test_the_first_sign_in_registers_and_later_ones_find_the_user(
    app: Connection, connection: Connection
) -> None:
    assert sign_in(app, "acc", "eve", "Eve") == "eve"
    # The account stays the same when Spotify's old id changes, and the name is not replaced.
    assert sign_in(app, "acc", "eve2", "Somebody") == "eve"
    assert accounts(connection) == {"eve": "acc"}
    assert connection.scalar(select(t.users.c.display_name)) == "Eve"


@pytest.mark.parametrize("what", ["account", "token", "play"])
def test_a_user_with_another_account_is_refused(
    app: Connection, connection: Connection, what: str
) -> None:
    add_user(connection, "eve", account_id="other" if what == "account" else None)
    if what == "token":
        connect(connection, "eve")
    if what == "play":
        play = {
            "user_id": "eve",
            "track_id": add_track(connection),
            "artist_id": "artist",
            "source": "api",
        }
        connection.execute(insert(t.plays).values(play | {"played_at": "2026-03-01T12:00Z"}))
    assert refusal(lambda: sign_in(app, "acc", "eve")) == "SP403"


class Waiting:
    """A statement that another session runs and that waits for ours."""

    def __init__(self, engine: Engine, threads: ThreadPoolExecutor, statement: str) -> None:
        address = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._session = psycopg.connect(address, autocommit=True)
        self.result: Future[Any] = threads.submit(self._run, statement)
        query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        with psycopg.connect(address, autocommit=True) as watcher:
            while watcher.execute(query, [self._session.info.backend_pid]).fetchone() != (True,):
                assert not self.result.done(), self.result
                time.sleep(0.005)

    def _run(self, statement: str) -> Any:
        with self._session as session:
            return session.execute(statement).fetchone()


@pytest.mark.timeout(60)
def test_two_sign_ins_of_one_account_under_two_ids_find_one_user(
    app_engine: Engine, connection: Connection
) -> None:
    with ThreadPoolExecutor(1) as threads, app_engine.connect() as first:
        sign_in(first, "acc", "eve")
        second = Waiting(
            app_engine, threads, "SELECT spotify_pipeline.sign_in_user('acc', 'eve2', NULL)"
        )
        first.commit()
        assert second.result.result(timeout=10) == ("eve",)
    assert accounts(connection) == {"eve": "acc"}


@pytest.mark.timeout(60)
def test_a_user_deleted_while_signing_in_is_refused_without_a_raw_error(
    app_engine: Engine, connection: Connection
) -> None:
    add_user(connection, "eve", account_id="acc")
    with ThreadPoolExecutor(1) as threads, app_engine.connect() as first:
        first.execute(text("SELECT spotify_pipeline.forget_user('eve')"))
        second = Waiting(
            app_engine, threads, "SELECT spotify_pipeline.sign_in_user('acc', 'eve', NULL)"
        )
        first.commit()
        with pytest.raises(psycopg.Error, match="There is no such user") as refused:
            second.result.result(timeout=10)
        assert refused.value.sqlstate == "SP404"


@pytest.mark.timeout(60)
def test_two_profile_changes_in_one_transaction_do_not_deadlock_with_forgetting(
    app_engine: Engine, connection: Connection
) -> None:
    with app_engine.begin() as conn:
        sign_in(conn, "acc", "eve")
    with ThreadPoolExecutor(1) as threads, app_engine.connect() as first:
        first.execute(text("SELECT spotify_pipeline.set_profile('eve', 'eve', true)"))
        second = Waiting(app_engine, threads, "SELECT spotify_pipeline.forget_user('eve')")
        first.execute(text("SELECT spotify_pipeline.share_profile('eve', NULL, NULL)"))
        first.execute(text("SELECT spotify_pipeline.end_sessions('eve')"))
        first.commit()
        second.result.result(timeout=10)
    assert accounts(connection) == {}


def test_a_taken_and_an_odd_profile_name_are_refused_in_one_sentence(
    app: Connection, connection: Connection
) -> None:
    for user_id in ("eve", "finn"):
        sign_in(app, f"account of {user_id}", user_id)
    call = "SELECT spotify_pipeline.set_profile(:u, :n, true)"
    app.execute(text(call), {"u": "eve", "n": "music"})
    for name in ("music", "Music", "-", "a b", "", "x" * 41, None):
        values = {"u": "finn", "n": name}
        assert refusal(lambda values=values: app.execute(text(call), values)) == "SP422", name
    assert refusal(lambda: app.execute(text(call), {"u": "nobody", "n": "n"})) == "SP404"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_account_stored_after_the_snapshot_is_to_be_tried_again(
    app_engine: Engine, app: Connection, level: str
) -> None:
    with app_engine.connect().execution_options(isolation_level=level) as old:
        old.execute(text("SELECT 1 FROM spotify_pipeline.sync_status"))
        sign_in(app, "acc", "eve")
        assert refusal(lambda: sign_in(old, "acc", "eve2")) == "40001"


def test_a_spotify_id_equal_to_a_users_account_id_is_not_that_user(
    app: Connection, connection: Connection
) -> None:
    add_user(connection, "vic", account_id="abc")
    assert sign_in(app, "another account", "abc") == "abc"
    assert accounts(connection) == {"vic": "abc", "abc": "another account"}


def test_a_user_whose_spotify_id_stands_for_the_account_is_found(
    app: Connection, connection: Connection
) -> None:
    # Spotify sent no account ids before.
    add_user(connection, "eve", account_id="eve")
    assert sign_in(app, "account", "eve") == "eve"


def test_a_share_links_digest_belongs_to_one_user(app: Connection) -> None:
    call = text("SELECT spotify_pipeline.share_profile(:u, :d, now() + interval '1 day')")
    for user_id in ("eve", "finn"):
        sign_in(app, user_id, user_id)
    digest = bytes(32)
    app.execute(call, {"u": "eve", "d": digest})
    assert refusal(lambda: app.execute(call, {"u": "finn", "d": digest})) == "22023"


FAR = [
    "top_ranks('eve', 2147483647)",
    "top_ranks('eve', -2147483648)",
    "listening_top('eve', 'tracks', '2026-01-01', '5874897-12-31', 5)",
    "listening_top('eve', 'artists', '4713-01-01 BC', '294277-01-01', 5)",
    "listening_top('eve', 'tracks', 'infinity', 'infinity', 5)",
    "listening_discoveries('eve', '4713-01-01 BC', '5874897-12-31', 5)",
    "listening_quarters('eve', 2147483647)",
]


@pytest.mark.parametrize("call", FAR)
def test_dates_far_away_raise_no_error(app: Connection, call: str) -> None:
    sign_in(app, "acc", "eve")
    app.execute(text(f"SELECT * FROM spotify_pipeline.{call}")).all()


def test_a_missing_kind_is_refused(app: Connection) -> None:
    call = "SELECT * FROM spotify_pipeline.listening_top('eve', NULL, now()::date, now()::date, 5)"
    assert refusal(lambda: app.execute(text(call))) == "22023"


PLAYS = """
    INSERT INTO spotify_pipeline.plays (user_id, played_at, track_id, artist_id, source)
    SELECT 'eve', CAST(:until AS timestamptz) - n * interval '1 minute', 'song', :artist, 'api'
    FROM generate_series(1, :plays) AS n
"""


def test_discoveries_are_the_artists_who_were_never_played_before_however_long_ago(
    app: Connection, connection: Connection
) -> None:
    sign_in(app, "acc", "eve")
    add_track(connection)
    year = date(2026, 1, 1), date(2026, 12, 31)
    for artist, until, plays in (
        # Played once, before 10,500 plays of another artist, and again this year.
        ("forgotten", "2025-01-01Z", 1),
        ("known", "2025-12-31Z", 10_500),
        ("forgotten", "2026-02-01Z", 9),
        ("known", "2026-02-02Z", 9),
        ("new", "2026-03-01Z", 2),
        ("newest", "2026-03-02Z", 3),
        ("later", "2027-01-02Z", 1),
    ):
        connection.execute(
            text(
                "INSERT INTO spotify_pipeline.artists (spotify_id, name) VALUES (:a, :a)"
                " ON CONFLICT DO NOTHING"
            ),
            {"a": artist},
        )
        connection.execute(text(PLAYS), {"artist": artist, "until": until, "plays": plays})
    found = listening_discoveries(app, "eve", *year, 10)
    assert found is not None
    assert [(line.name, line.plays, line.total) for line in found] == [
        ("newest", 3, 2),
        ("new", 2, 2),
    ]
    assert listening_discoveries(app, "eve", *year, 1) == found[:1]
    # Nothing older is stored to compare with.
    assert listening_discoveries(app, "eve", date(2020, 1, 1), year[1], 10) is None
