"""`spotify-pipeline init-db`, and the database as the other commands open it."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from spotify_pipeline.settings import Settings, load_settings
from spotify_pipeline.storage.postgres.database import is_missing, open_engine
from spotify_pipeline.storage.postgres.schema import NOT_SET_UP, SchemaOutdated, check_revision
from spotify_pipeline.storage.postgres.types import Engine
from spotify_pipeline.terminal import example


@contextmanager
def opened_database(settings: Settings) -> Iterator[Engine]:
    """An engine on a database that has the schema of this version. Raises SchemaOutdated.

    Makes no embedded Postgres: a command that only reads must leave an empty folder empty.
    """
    if is_missing(settings):
        raise SchemaOutdated(NOT_SET_UP)
    engine = open_engine(settings)
    try:
        check_revision(engine)
        yield engine
    finally:
        engine.dispose()


@click.command(
    "init-db",
    epilog=example(
        "spotify-pipeline init-db",
        "SPOTIFY_PIPELINE_DATABASE_URL=postgresql://me@db.example.com/app spotify-pipeline init-db",
    ),
)
def init_db() -> None:
    """Create the schema in the database, or upgrade it, and the app's role. Safe to repeat."""
    from spotify_pipeline.storage.postgres import schema
    from spotify_pipeline.storage.postgres.dagster_database import Created, create_dagster_database
    from spotify_pipeline.storage.postgres.roles import AppRole, create_statement, give_rights

    settings = load_settings()
    engine = open_engine(settings)
    try:
        before, newest = schema.current_revision(engine), schema.newest_revision()
        schema.init_db(engine)
        click.echo(_what_happened(before, newest))
        if give_rights(engine, settings.app_role) is AppRole.NOT_ALLOWED:
            click.echo(
                f"There is no role {settings.app_role} for the app, and this user may not make "
                f"one. Let somebody who may run: {create_statement(engine, settings.app_role)}; "
                "then run this again, which gives it its rights."
            )
        dagster = create_dagster_database(settings, engine)
    finally:
        engine.dispose()
    if dagster is Created.MADE:
        click.echo("Created the database dagster for Dagster's runs and events.")
    elif dagster is Created.NOT_ALLOWED:
        click.echo(
            "There is no database for Dagster yet, and this user may not create one. "
            "Let somebody who may run: CREATE DATABASE dagster; or set DAGSTER_PG_URL."
        )


def _what_happened(before: str | None, newest: str) -> str:
    if before is None:
        return f"Created the schema spotify_pipeline at revision {newest}."
    if before == newest:
        return (
            f"The schema spotify_pipeline is already at revision {newest}; "
            "its functions, views and time zones were written again."
        )
    return f"Upgraded the schema spotify_pipeline from revision {before} to {newest}."
