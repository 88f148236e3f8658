"""Refuses a database for Dagster that holds other tables, before Dagster creates its own.

Dagster creates some twenty tables in the first schema of the search_path, with Alembic's version
table among them. If an app has its own tables there, both would break.
"""

import re
from functools import cache
from pathlib import Path

import dagster
from sqlalchemy import Connection, text

from spotify_pipeline.defs.instance.dagster_private_tables import (
    RunStorageSqlMetadata,
    ScheduleStorageSqlMetadata,
    SqlEventLogStorageMetadata,
)
from spotify_pipeline.settings import ConfigurationError, Settings
from spotify_pipeline.storage.postgres.database import open_dagster_engine

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
