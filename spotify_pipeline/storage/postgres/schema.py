"""Creates the schema of this version, upgrades an older one, and refuses any other.

A new database is made from `storage/tables`, the one source of the schema; migrations change the
tables of an existing one, once each. What holds no data is written again at every init-db, so it
always is that of this version: functions and views (`storage/sql`), comments, and the time zones
with their days. Only a view whose columns change their meaning, or a function that changes its
result, is first dropped by a migration.
"""

import time
from collections.abc import Callable
from functools import cache
from importlib import resources

from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, Table, column, delete, func, select, table, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import SetColumnComment, SetTableComment

from spotify_pipeline.domain.zones import all_day_starts, all_zones
from spotify_pipeline.errors import PipelineError, UsageError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import check_server

# The order matters: a function may use a view, and a view another view.
SCRIPTS = (
    "user_triggers.sql",
    "top_lists.sql",
    "plays.sql",
    "counters.sql",
    "users.sql",
    "imports.sql",
    "requests.sql",
    "status.sql",
    "history.sql",
    "listens.sql",
    "metrics.sql",
    "profiles.sql",
    "listening.sql",
)

# Any number that no other program in this database uses for an advisory lock.
LOCK = 0x5350_4F54_4946_59

# A session that waits for a lock on a table or view makes every later session wait behind it: an
# app that reads sync_status would block too. So give up, and try again after a pause.
LOCK_TIMEOUT = "5s"
TRIES = 6
PAUSE_SECONDS = 2.0
NOT_SET_UP = "The database is not set up yet: run `spotify-pipeline init-db`."


class SchemaOutdated(UsageError):
    """The database has no schema of ours, or a revision that this version cannot use."""


class SchemaBusy(PipelineError):
    """Other sessions held locks on what had to change."""


def init_db(engine: Engine, sleep: Callable[[float], None] = time.sleep) -> None:
    """Create or upgrade the schema in one transaction; idempotent, and safe to run concurrently.

    A deadlock or a lock timeout rolls everything back and is tried again. Raises SchemaBusy after
    the last try, SchemaOutdated for a revision that it cannot upgrade, and UnsupportedServer.
    """
    for tried in range(1, TRIES + 1):
        try:
            return _create_or_upgrade(engine)
        except DBAPIError as error:
            if not isinstance(error.orig, DeadlockDetected | LockNotAvailable):
                raise
            if tried == TRIES:
                raise SchemaBusy(
                    f"Other sessions kept tables or views of spotify_pipeline, or its advisory "
                    f"lock {LOCK}, locked {TRIES} times; nothing was changed. Stop the pipeline, "
                    "and the app or what else holds a transaction or a lock open, then run "
                    "`spotify-pipeline init-db` again."
                ) from error
        sleep(PAUSE_SECONDS)


OWNERS_OF_FUNCTIONS = """
SELECT DISTINCT proowner::regrole::text FROM pg_proc
WHERE pronamespace = to_regnamespace(:schema)
"""


def _create_or_upgrade(engine: Engine) -> None:
    with engine.begin() as connection:
        check_server(connection)
        connection.execute(select(func.set_config("lock_timeout", LOCK_TIMEOUT, True)))
        # Any login may hold it: the wait is limited too.
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        # Checked first: IF NOT EXISTS needs the right to create schemas even if the schema exists.
        if connection.scalar(select(func.to_regnamespace(t.SCHEMA))) is None:
            connection.execute(text(f"CREATE SCHEMA {t.SCHEMA}"))
            connection.execute(
                text(f"COMMENT ON SCHEMA {t.SCHEMA} IS 'What users listen to on Spotify.'")
            )
        found = _revision(connection)
        if found is None:
            # checkfirst would leave a table of another program as it is, under one of our names.
            t.metadata.create_all(connection, checkfirst=False)
            _alembic("stamp", connection)
        else:
            _refuse_foreign(found)
            _alembic("upgrade", connection)
        _run_scripts(connection, *SCRIPTS, *(["triggers.sql"] if found is None else []))
        # Postgres grants EXECUTE on a new function to PUBLIC.
        connection.execute(text(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {t.SCHEMA} FROM PUBLIC"))
        # One that another login has made now may be called by those of an older one.
        for owner in connection.scalars(text(OWNERS_OF_FUNCTIONS), {"schema": t.SCHEMA}).all():
            connection.execute(
                text(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {t.SCHEMA} TO {owner}")
            )
        _write_comments(connection)
        _fill_time_zones(connection)
        _fill_day_starts(connection)


def check_revision(engine: Engine) -> None:
    """Raises SchemaOutdated unless the database is at the revision of this version."""
    found = current_revision(engine)
    if found is None:
        raise SchemaOutdated(NOT_SET_UP)
    _refuse_foreign(found)
    if found < newest_revision():
        raise SchemaOutdated(
            f"The database is at revision {found} and this version needs {newest_revision()}: "
            "run `spotify-pipeline init-db`."
        )


def _refuse_foreign(found: str) -> None:
    if found > newest_revision():
        raise SchemaOutdated(
            f"The database is at revision {found}, which a newer spotify_pipeline made, and this "
            f"version knows {newest_revision()}: upgrade spotify_pipeline. "
            "(`spotify-pipeline init-db` does not go back.)"
        )
    if found < _revisions()[0]:
        raise SchemaOutdated(
            f"The database is at revision {found}, and this version upgrades from "
            f"{_revisions()[0]} on: first run `spotify-pipeline init-db` of an earlier "
            f"spotify_pipeline that knows revision {_revisions()[0]}."
        )


def upgradable_revision(engine: Engine) -> str | None:
    """The revision that init_db would begin with. Raises SchemaOutdated if it would refuse it."""
    found = current_revision(engine)
    if found is not None:
        _refuse_foreign(found)
    return found


def current_revision(engine: Engine) -> str | None:
    """The revision that the database is at; None without our schema."""
    with engine.connect() as connection:
        return _revision(connection)


def newest_revision() -> str:
    """The revision of this version, such as '0008'."""
    return _revisions()[-1]


@cache
def _revisions() -> list[str]:
    """Sorted, by the names of the files. Four digits, so text order serves."""
    versions = resources.files("spotify_pipeline.storage") / "migrations" / "versions"
    names = [entry.name for entry in versions.iterdir() if entry.name.endswith(".py")]
    return sorted(name.partition("_")[0] for name in names if name[:1].isdigit())


def _revision(connection: Connection) -> str | None:
    if connection.scalar(select(func.to_regclass(f"{t.SCHEMA}.alembic_version"))) is None:
        return None
    versions = table("alembic_version", column("version_num"), schema=t.SCHEMA)
    found = connection.scalar(select(versions.c.version_num))
    return None if found is None else str(found)


def _alembic(command: str, connection: Connection) -> None:
    """Runs `upgrade` or `stamp` to the newest revision."""
    # Only here: alembic takes a fifth of a second to import, and most processes never migrate.
    from alembic import command as commands
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "spotify_pipeline.storage:migrations")
    config.attributes["connection"] = connection
    getattr(commands, command)(config, "head")


def _run_scripts(connection: Connection, *names: str) -> None:
    connection.execute(text(f"SET LOCAL search_path = {t.SCHEMA}, pg_temp"))
    scripts = resources.files("spotify_pipeline.storage") / "sql"
    for name in names:
        connection.exec_driver_sql(
            (scripts / name).read_text(encoding="utf-8"),
            execution_options={"no_parameters": True},
        )


def _write_comments(connection: Connection) -> None:
    """Give tables, views and columns this version's comments; unchanged ones are not touched."""
    rows = connection.execute(
        text(
            "SELECT c.relname, a.attname, d.description FROM pg_description AS d"
            " JOIN pg_class AS c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass"
            " LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.objsubid"
            " AND d.objsubid > 0 WHERE c.relnamespace = to_regnamespace(:schema)"
        ),
        {"schema": t.SCHEMA},
    )
    found = {(relation, attribute): comment for relation, attribute, comment in rows}
    for ours in (*t.metadata.sorted_tables, *t.views.sorted_tables):
        if found.get((ours.name, None)) != ours.comment:
            _write_comment(connection, ours)
        for column_ in ours.columns:
            if found.get((ours.name, column_.name)) != column_.comment:
                connection.execute(SetColumnComment(column_))


def _write_comment(connection: Connection, ours: Table) -> None:
    statement = str(SetTableComment(ours).compile(dialect=connection.dialect))
    if ours.metadata is t.views:  # which SQLAlchemy does not know
        statement = statement.replace("TABLE", "VIEW", 1)
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _fill_time_zones(connection: Connection) -> None:
    zones = t.time_zones
    names = list(all_zones())
    connection.execute(insert(zones).on_conflict_do_nothing(), [{"name": name} for name in names])
    # A name that the package dropped stays while a user has it.
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
