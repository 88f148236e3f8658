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
        "spotify-pipeline init-db --dry-run",
        "SPOTIFY_PIPELINE_DATABASE_URL=postgresql://me@db.example.com/app spotify-pipeline init-db",
    ),
)
@click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")
def init_db(dry_run: bool) -> None:
    """Create the schema in the database, or upgrade it, and the app's role. Safe to repeat."""
    from spotify_pipeline.storage.postgres import schema
    from spotify_pipeline.storage.postgres.database import create_dagster_database
    from spotify_pipeline.storage.postgres.roles import (
        create_statement,
        give_all_rights,
        make_missing_login,
    )

    settings = load_settings()
    if dry_run:
        _say_what_would_happen(settings)
        return
    engine = open_engine(settings)
    try:
        before, newest = schema.current_revision(engine), schema.newest_revision()
        schema.init_db(engine)
        click.echo(_what_happened(before, newest))
        for role in give_all_rights(engine, settings):
            whose = "the app" if role == settings.app_role else "analysts"
            click.echo(
                f"There is no role {role} for {whose}, and this user may not make one. Let "
                f"a user with the right run: {create_statement(engine, role)}; then run this "
                "again, which gives it its rights."
            )
        if login := make_missing_login(engine, settings):
            click.echo(
                f"There is no login {login} for the web page, and this user may not make one: "
                "docs/web.md has the statements."
            )
        is_created = create_dagster_database(settings, engine)
    finally:
        engine.dispose()
    if is_created:
        click.echo("Created the database dagster for Dagster's runs and events.")
    elif is_created is False:
        click.echo(
            "There is no database for Dagster yet, and this user may not create one. "
            "Let a user with the right run: CREATE DATABASE dagster; or set DAGSTER_PG_URL."
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


def _say_what_would_happen(settings: Settings) -> None:
    """Connects to a database that exists, and writes nothing. Raises SchemaOutdated if refused."""
    from spotify_pipeline.storage.postgres import roles, schema

    newest = schema.newest_revision()
    if is_missing(settings):
        click.echo(
            f"Would create an embedded Postgres in {settings.home}, the schema spotify_pipeline at "
            f"revision {newest} and the roles {settings.app_role} and {settings.analyst_role}."
        )
        return
    engine = open_engine(settings)
    try:
        before = schema.upgradable_revision(engine)
        with engine.connect() as conn:
            found = {
                role: roles.exists(conn, role)
                for role in (settings.app_role, settings.analyst_role)
            }
    finally:
        engine.dispose()
    if before is None:
        click.echo(f"Would create the schema spotify_pipeline at revision {newest}.")
    elif before == newest:
        click.echo(f"The schema is at revision {newest}: would only write its functions again.")
    else:
        click.echo(
            f"Would upgrade the schema spotify_pipeline from revision {before} to {newest}: stop "
            "the pipeline and make a backup first."
        )
    for role, is_there in found.items():
        click.echo(f"{'Would set the rights of' if is_there else 'Would create'} the role {role}.")
