"""Dagster's storage: its own Postgres classes, with our database URL and a connection pool.

Configured in dagster.yaml. The URL never enters the instance's configuration, which Dagster passes
to child processes on their command lines.

A database that holds other tables is refused: Dagster creates some twenty tables in the first
schema of the search_path, with Alembic's version table among them. If an app has its own tables
there, both would break.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import dagster
from dagster import Field, IntSource
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import Connection, event, text
from sqlalchemy.pool import Pool

from spotify_pipeline.defs.instance.dagster_private import ConfigurableClassData
from spotify_pipeline.defs.instance.dagster_private_tables import (
    RunStorageSqlMetadata,
    ScheduleStorageSqlMetadata,
    SqlEventLogStorageMetadata,
    SqlEventLogStorageTable,
)
from spotify_pipeline.defs.instance.redaction import install
from spotify_pipeline.redaction import remember
from spotify_pipeline.settings import ConfigurationError, Settings, load_settings
from spotify_pipeline.storage.postgres.bulk import insert_rows
from spotify_pipeline.storage.postgres.database import dagster_url, open_dagster_engine
from spotify_pipeline.storage.postgres.engine import PORTABLE, apply_settings

VERSION_TABLE = "alembic_version"
REMEDY = (
    "Give Dagster a database of its own, or a schema of its own: CREATE SCHEMA dagster, and append "
    "?options=-csearch_path%3Ddagster to DAGSTER_PG_URL (after another option: &options=…)."
)

_TABLES = text(
    "SELECT relname FROM pg_catalog.pg_class"
    " WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))"
    " AND relkind IN ('r', 'p', 'v', 'm', 'f')"
    # Without relations of extensions, such as pg_stat_statements.
    " AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.objid = pg_class.oid"
    " AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'e')"
)


def check_dagster_database(settings: Settings) -> bool:
    """Whether Dagster's tables are all there: then nothing has to be created.

    Raises ConfigurationError when DAGSTER_PG_URL's schema holds tables of others.
    """
    engine = open_dagster_engine(settings)
    try:
        with engine.connect() as conn:
            return _check(conn)
    finally:
        engine.dispose()


def _check(conn: Connection) -> bool:
    if conn.scalar(text("SELECT current_schema()")) is None:
        raise ConfigurationError(
            "DAGSTER_PG_URL names a database in which Dagster cannot make tables, because no "
            f"schema of its search_path exists. {REMEDY}"
        )
    found = set(conn.scalars(_TABLES))
    foreign = found - dagsters_tables()
    # Alembic takes the first version table of the search_path, whatever schema it is in.
    is_versioned = conn.scalar(text("SELECT to_regclass('alembic_version')")) is not None
    if is_versioned:
        versions = set(conn.scalars(text("SELECT version_num FROM alembic_version")))
        if versions and versions <= _revisions():
            # Perhaps beside others from before this check.
            return found >= dagsters_tables()
        foreign.add(VERSION_TABLE)
    if foreign:
        left = len(found & dagsters_tables() - {VERSION_TABLE})
        also = f", and {left} of Dagster's that an earlier start left there" if left else ""
        raise ConfigurationError(
            f"DAGSTER_PG_URL names a place with tables that are not Dagster's ({len(foreign)} of "
            f"them{also}). {REMEDY}"
        )
    return False


@cache
def dagsters_tables() -> frozenset[str]:
    """The names of all tables that Dagster's storage creates."""
    parts = (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
    return frozenset([VERSION_TABLE, *(name for part in parts for name in part.tables)])


@cache
def _revisions() -> frozenset[str]:
    folder = Path(dagster.__file__).parent / "_core" / "storage" / "alembic" / "versions"
    # Read as text: importing them would take 0.17 s in every process.
    lines = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    return frozenset(re.findall(r"^revision = [\"'](\w+)[\"']", lines, re.MULTILINE))


# By default Dagster opens a connection for every group of statements: about 15 ms per event.
POOL_OVERFLOW = 20


def _remembering_yes(asked: Callable[[str], bool]) -> Callable[[str], bool]:
    """The question, asked again only until its answer is yes: another process may be at it."""
    yes = set[str]()

    def answer(name: str) -> bool:
        if name not in yes and asked(name):
            yes.add(name)
        return name in yes

    return answer


class PipelineDagsterStorage(DagsterPostgresStorage):
    """Runs, events and schedules in DAGSTER_PG_URL, or in database `dagster` beside our own."""

    def __init__(self, pool_recycle: int, inst_data: ConfigurableClassData | None = None) -> None:
        # Every Dagster process creates this storage, but not every one loads definitions.py.
        install()
        # dagster-postgres needs psycopg2; SQLAlchemy 2.1 would choose psycopg 3 for postgresql://.
        settings = load_settings()
        is_complete = check_dagster_database(settings)
        url = dagster_url(settings).set(drivername="postgresql+psycopg2")
        if url.password:
            remember(str(url.password))
        super().__init__(
            url.render_as_string(hide_password=False),
            # Each of its three parts would connect twice to look for its tables.
            should_autocreate_tables=not is_complete,
            inst_data=inst_data,
        )
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage.optimize_for_webserver(
                statement_timeout=0, pool_recycle=pool_recycle, max_overflow=POOL_OVERFLOW
            )
        # Cached: Dagster calls it at every materialization, inside a transaction. The pool keeps
        # one connection, so each call would open another.
        log = self._event_log_storage
        log.has_table = cache(log.has_table)  # type: ignore[method-assign]
        # Dagster would list the columns of asset_keys thirty times in a run of one user: a third of
        # Postgres's CPU.
        log.has_asset_key_col = _remembering_yes(  # type: ignore[method-assign,assignment]
            log.has_asset_key_col
        )
        # Dagster's own statement has a parameter per value and is compiled for every batch, which
        # took a third of the CPU of an event.
        log.prepare_insert_event_batch = lambda events: insert_rows(  # type: ignore[method-assign]
            SqlEventLogStorageTable, [log._event_to_row(event) for event in events]
        )
        # For these Dagster listed all tables several times a tick: a fifth of the daemon's CPU.
        schedules = self._schedule_storage
        schedules._has_instigators_table = lambda conn: True  # type: ignore[method-assign]
        schedules.has_built_index = _remembering_yes(  # type: ignore[method-assign,assignment]
            schedules.has_built_index
        )

    @classmethod
    def config_type(cls) -> Any:
        """Only pool_recycle: the age in seconds at which a pooled connection is replaced."""
        return {"pool_recycle": Field(IntSource, is_required=False, default_value=1800)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> "PipelineDagsterStorage":
        """Build from the (empty) block in dagster.yaml."""
        return cls(pool_recycle=config_value["pool_recycle"], inst_data=inst_data)


@event.listens_for(Pool, "connect")
def _prepare_session(connection: Any, _record: object) -> None:
    """Applies our session settings, UTC among them: Dagster reads timestamps without a zone.

    Registered for every pool of the process, because Dagster creates its tables on other engines;
    only Dagster uses psycopg2 here. Registered at import: later, connecting threads make it a race.
    """
    if type(connection).__module__.partition(".")[0] == "psycopg2":
        apply_settings(connection, PORTABLE)
        connection.commit()
