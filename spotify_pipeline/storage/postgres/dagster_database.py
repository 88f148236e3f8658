"""Creates the database for Dagster on our own server, if it is missing and we have the right."""

from enum import Enum

from psycopg import sql
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from spotify_pipeline.settings import Settings

DATABASE = "dagster"
_INSUFFICIENT_PRIVILEGE = "42501"
_DUPLICATE = "42P04"


# By default every role of the server may log in to a new database and make temporary objects there.
CLOSE = sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC")


class Created(Enum):
    """The outcome of create_dagster_database."""

    MADE = "made"
    WAS_THERE = "was there"
    NOT_ALLOWED = "not allowed"
    NOT_OURS = "not ours"


def create_dagster_database(settings: Settings, engine: Engine) -> Created:
    """Create `dagster` on the server of `engine`, closed to all but its owner.

    Only on a server of one's own: the embedded one makes its databases itself, and where
    DAGSTER_PG_URL is set the operator has chosen another.
    """
    if settings.database_url is None or settings.dagster_pg_url is not None:
        return Created.NOT_OURS
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        found = text("SELECT FROM pg_database WHERE datname = :name")
        if conn.execute(found, {"name": DATABASE}).first() is not None:
            return Created.WAS_THERE
        try:
            conn.execute(text(f"CREATE DATABASE {DATABASE}"))
        except ProgrammingError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state == _DUPLICATE:
                return Created.WAS_THERE
            if state == _INSUFFICIENT_PRIVILEGE:
                return Created.NOT_ALLOWED
            raise
        conn.exec_driver_sql(CLOSE.format(sql.Identifier(DATABASE)).as_string())
    return Created.MADE
