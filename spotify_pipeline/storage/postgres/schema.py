"""Brings a database to the schema of this version, and says when one is not there yet.

What holds data (tables, constraints, triggers) is versioned by revisions, which run once. What
does not (functions and views, `storage/sql/*.sql`, and the time zones with their days) is written
again at every init-db, so it always is the one of this version; only a view whose columns change
their meaning, or a function that changes its result, is first dropped by a revision.
"""

import time
from collections.abc import Callable
from functools import cache
from importlib import resources

from sqlalchemy import Connection, Engine, column, delete, func, select, table, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.domain.listening.day_starts import all_day_starts
from spotify_pipeline.domain.zones import all_zones
from spotify_pipeline.errors import PipelineError, UsageError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import check_server

# The order matters: a function may use a view, and a view another view.
SCRIPTS = (
    "people.sql",
    "plays.sql",
    "tallies.sql",
    "accounts.sql",
    "requests.sql",
    "status.sql",
    "history.sql",
)

# Any number will do that nobody else in this database uses for an advisory lock.
LOCK = 0x5350_4F54_4946_59

# Who waits for a lock on a table or view makes everybody who comes later wait too: an app that
# reads sync_status stood still for as long as another session held it. So we let go and try again.
LOCK_TIMEOUT = "5s"
TRIES = 6
PAUSE_SECONDS = 2.0
NOT_SET_UP = "The database is not set up yet: run `spotify-pipeline init-db`."
_DEADLOCK, _LOCK_TIMEOUT = "40P01", "55P03"


class SchemaOutdated(UsageError):
    """The database has no schema of ours or another revision of it; says what to do."""


class SchemaBusy(PipelineError):
    """Other sessions kept locked what had to change; says what to do."""


def init_db(engine: Engine, sleep: Callable[[float], None] = time.sleep) -> None:
    """Create or upgrade the schema, in one transaction; safe to run twice and by many at once.

    A deadlock with who uses the database, or a lock that is not let go, undoes all of it, and it is
    tried again. Raises SchemaBusy after the last try, SchemaOutdated for the schema of a newer
    version, and UnsupportedServer for a server that cannot hold ours.
    """
    for tried in range(1, TRIES + 1):
        try:
            return _init_db(engine)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in (_DEADLOCK, _LOCK_TIMEOUT):
                raise
            if tried == TRIES:
                raise SchemaBusy(
                    f"Other sessions kept tables or views of spotify_pipeline locked, {TRIES} "
                    "times; nothing was changed. Stop the pipeline, and the app or whoever else "
                    "holds a transaction open, then run `spotify-pipeline init-db` again."
                ) from error
        sleep(PAUSE_SECONDS)


def _init_db(engine: Engine) -> None:
    with engine.begin() as connection:
        check_server(connection)
        connection.execute(select(func.set_config("lock_timeout", LOCK_TIMEOUT, True)))
        # Any login may hold it: the wait is limited too.
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        # Asked first: IF NOT EXISTS alone demands the right to create schemas even if there is one.
        if connection.scalar(select(func.to_regnamespace(t.SCHEMA))) is None:
            connection.execute(text(f"CREATE SCHEMA {t.SCHEMA}"))
            connection.execute(
                text(f"COMMENT ON SCHEMA {t.SCHEMA} IS 'What people listen to on Spotify.'")
            )
        _refuse_newer(_revision(connection) or "")
        _upgrade(connection)
        _apply_scripts(connection)
        _fill_time_zones(connection)
        _fill_day_starts(connection)


def is_set_up(engine: Engine) -> bool:
    """Whether there is any revision of our schema."""
    with engine.connect() as connection:
        return _revision(connection) is not None


def check_revision(engine: Engine) -> None:
    """Raises SchemaOutdated unless the database is at the revision of this version."""
    found = current_revision(engine)
    if found is None:
        raise SchemaOutdated(NOT_SET_UP)
    if found < newest_revision():
        raise SchemaOutdated(
            f"The database is at revision {found} and this version needs {newest_revision()}: "
            "run `spotify-pipeline init-db`."
        )
    _refuse_newer(found)


def _refuse_newer(found: str) -> None:
    if found > newest_revision():
        raise SchemaOutdated(
            f"The database is at revision {found}, which a newer spotify_pipeline made, and this "
            f"version knows {newest_revision()}: upgrade spotify_pipeline. "
            "(`spotify-pipeline init-db` does not go back.)"
        )


def current_revision(engine: Engine) -> str | None:
    """The revision that the database is at; None without our schema."""
    with engine.connect() as connection:
        return _revision(connection)


@cache
def newest_revision() -> str:
    """The newest revision by the file names, such as '0001'. Four digits, so text order serves."""
    versions = resources.files("spotify_pipeline.storage") / "migrations" / "versions"
    names = [entry.name for entry in versions.iterdir() if entry.name.endswith(".py")]
    return max(name.partition("_")[0] for name in names if name[:1].isdigit())


def _revision(connection: Connection) -> str | None:
    if connection.scalar(select(func.to_regclass(f"{t.SCHEMA}.alembic_version"))) is None:
        return None
    versions = table("alembic_version", column("version_num"), schema=t.SCHEMA)
    found = connection.scalar(select(versions.c.version_num))
    return None if found is None else str(found)


def _upgrade(connection: Connection) -> None:
    # Only here: alembic takes a fifth of a second to import, and most processes never migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "spotify_pipeline.storage:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _apply_scripts(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL search_path = {t.SCHEMA}, pg_temp"))
    scripts = resources.files("spotify_pipeline.storage") / "sql"
    for name in SCRIPTS:
        connection.exec_driver_sql(
            (scripts / name).read_text(encoding="utf-8"),
            execution_options={"no_parameters": True},
        )
    # Postgres lets everybody execute a new function.
    connection.execute(text(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {t.SCHEMA} FROM PUBLIC"))


def _fill_time_zones(connection: Connection) -> None:
    zones = t.time_zones
    names = list(all_zones())
    connection.execute(insert(zones).on_conflict_do_nothing(), [{"name": name} for name in names])
    # A name that the package dropped stays while somebody lives in it.
    used = select(t.users.c.timezone)
    connection.execute(delete(zones).where(zones.c.name.not_in(names), zones.c.name.not_in(used)))


def _fill_day_starts(connection: Connection) -> None:
    d = t.day_starts
    columns = (d.c.timezone, d.c.since, d.c.begins)
    wanted = [(step.timezone, step.since, step.begins) for step in all_day_starts()]
    # A zone that the package dropped keeps its days, as it keeps its name.
    known = select(*columns).where(d.c.timezone.in_(all_zones()))
    if {tuple(row) for row in connection.execute(known)} == set(wanted):
        return
    connection.execute(delete(d).where(d.c.timezone.in_(all_zones())))
    names = [column.name for column in columns]
    connection.execute(insert(d), [dict(zip(names, row, strict=True)) for row in wanted])
