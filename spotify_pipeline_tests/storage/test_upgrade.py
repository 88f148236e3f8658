"""An upgrade of a database that is in use."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, text

from spotify_pipeline.storage.engine import make_engine
from spotify_pipeline.storage.schema import check_revision, init_db

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
            of_then = script.read_text(encoding="utf-8").replace("a.day_full_until", "NULL")
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
