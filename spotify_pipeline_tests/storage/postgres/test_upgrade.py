"""init-db on a database that is in use."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.storage.postgres import schema
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import SchemaBusy, check_revision, init_db

WAITING = text(
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def outdated(empty_database: URL) -> Iterator[Engine]:
    """At revision 0002, with the views of then."""
    engine = make_engine(empty_database)
    with engine.begin() as conn:
        conn.execute(text("CREATE SCHEMA spotify_pipeline"))
        config = Config()
        config.set_main_option("script_location", "spotify_pipeline.storage:migrations")
        config.attributes["connection"] = conn
        command.upgrade(config, "0002")
        conn.execute(text("SET LOCAL search_path = spotify_pipeline, pg_temp"))
        for name in ("requests.sql", "status.sql"):
            script = resources.files("spotify_pipeline.storage") / "sql" / name
            of_then = script.read_text(encoding="utf-8")
            of_then = of_then.replace("b.day_full_until", "NULL::timestamptz")
            conn.exec_driver_sql(of_then, execution_options={"no_parameters": True})
    yield engine
    engine.dispose()


def until_waiting(conn: Connection, number: int) -> None:
    for _ in range(1_000):
        if conn.scalar(WAITING) >= number:
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody came to wait: {conn.scalar(WAITING)}")


def test_an_upgrade_and_who_reads_the_status_meanwhile_wait_in_no_circle(outdated: Engine) -> None:
    def read() -> int:
        with outdated.connect() as app:
            return len(app.execute(text("SELECT * FROM spotify_pipeline.sync_status")).all())

    with ThreadPoolExecutor(2) as others:
        with outdated.connect() as look, outdated.begin() as write:
            write.execute(text("LOCK TABLE spotify_pipeline.plays IN ROW EXCLUSIVE MODE"))
            upgrade = others.submit(init_db, outdated)
            until_waiting(look, 1)
            reader = others.submit(read)
            until_waiting(look, 2)
        upgrade.result(60)
        reader.result(60)
    check_revision(outdated)


READ = text("SELECT * FROM spotify_pipeline.sync_status")


def test_a_lock_that_is_not_let_go_is_waited_for_a_few_times_and_then_told(
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


def test_who_reads_the_status_and_who_replaces_it_take_their_locks_in_one_order(
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
