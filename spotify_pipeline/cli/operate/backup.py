"""`spotify-pipeline backup` and `restore`: both databases as dumps, the key file apart."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.errors import UsageError
from spotify_pipeline.home import partial_folder, private_file
from spotify_pipeline.settings import Settings, load_settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.database import (
    create_dagster_database,
    dagster_url,
    open_dagster_engine,
    open_engine,
    pipeline_url,
    reach_dagster,
)
from spotify_pipeline.storage.postgres.dump import (
    dump_schema,
    has_users,
    restore_schema,
    schema_of,
)
from spotify_pipeline.storage.postgres.roles import give_all_rights
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline.sync.admin.keys import KEY_FILE
from spotify_pipeline.terminal import count, example

NAME = "spotify_pipeline-%Y-%m-%dT%H%M%S.%fZ"
OURS, DAGSTERS = "spotify_pipeline.dump", "dagster.dump"
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(
    epilog=example(
        "spotify-pipeline backup --to /backups",
        "spotify-pipeline backup --to /backups --keep 30 --keys-to /safe",
    )
)
@click.option("--to", "to", required=True, type=_FOLDER, help="Folder of the backups.")
@click.option(
    "--keep", default=7, type=click.IntRange(1), show_default=True, help="Backups that stay there."
)
@click.option(
    "--keys-to", type=_FOLDER, help="Another folder, for a copy of the key file in the home."
)
def backup(to: Path, keep: int, keys_to: Path | None) -> None:
    """Write a backup of both databases; `restore` reads it.

    Each is a consistent snapshot, and syncs go on meanwhile. The keys that open the tokens are not
    in it: keep them elsewhere. Older backups are deleted after the new one is complete.
    """
    settings = load_settings()
    keys = _key_file(settings, to, keys_to)
    with opened_database(settings):
        folder = _write(settings, to)
    click.echo(f"Wrote {folder}.")
    if keys and keys_to:
        keys_to.mkdir(mode=0o700, parents=True, exist_ok=True)
        with private_file(keys_to / KEY_FILE) as file:
            file.write(keys.read_bytes())
        click.echo(f"Copied the keys to {keys_to / KEY_FILE}.")
    elif keys:
        click.echo(f"The keys are not in it: keep a copy of {keys} elsewhere (--keys-to).")
    else:
        click.echo("The keys are not in it: keep SPOTIFY_PIPELINE_TOKEN_KEYS elsewhere.")
    old = sorted(path for path in to.glob("spotify_pipeline-*Z") if (path / OURS).exists())[:-keep]
    for path in old:
        shutil.rmtree(path)
    if old:
        click.echo(f"Deleted {count(len(old), 'older backup')}.")


def _key_file(settings: Settings, to: Path, keys_to: Path | None) -> Path | None:
    """The key file in the home; None where the keys come from the environment."""
    if keys_to and keys_to.resolve().is_relative_to(to.resolve()):
        raise UsageError(
            "--keys-to lies in the folder of the backups: choose another place, because with both "
            "anybody can use the tokens."
        )
    path = settings.home / KEY_FILE
    return path if settings.token_keys is None and path.exists() else None


def _write(settings: Settings, to: Path) -> Path:
    """The folder of the new backup, which has its name only when it is complete."""
    with partial_folder(to) as partial:
        if reach_dagster(settings):
            engine = open_dagster_engine(settings)
            schema = schema_of(engine)
            engine.dispose()
            dump_schema(dagster_url(settings), schema, partial / DAGSTERS)
        # Last: partition_reconciler removes partitions of users that our dump lacks.
        dump_schema(pipeline_url(settings), t.SCHEMA, partial / OURS)
        return partial.rename(to / datetime.now(UTC).strftime(NAME))


@click.command(
    epilog=example("spotify-pipeline restore /backups/spotify_pipeline-2026-11-28T030000.123456Z")
)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--replace", is_flag=True, help="Also where users are stored already.")
def restore(folder: Path, replace: bool) -> None:
    """Restore a backup of `backup`, upgraded to this version.

    Stop what uses the databases first, and put the keys of then back: the key file into the home,
    or SPOTIFY_PIPELINE_TOKEN_KEYS. Each database is restored as a whole or not at all.
    """
    settings = load_settings()
    if not (folder / OURS).exists():
        raise UsageError(f"{folder} holds no {OURS}: name a folder that `backup` wrote.")
    engine = open_engine(settings)
    try:
        if has_users(engine) and not replace:
            raise UsageError(
                "This database has users already: restore with --replace to replace them, or set "
                "SPOTIFY_PIPELINE_DATABASE_URL to another one."
            )
        restore_schema(pipeline_url(settings), folder / OURS)
        init_db(engine)
        give_all_rights(engine, settings)
        create_dagster_database(settings, engine)
    finally:
        engine.dispose()
    if (folder / DAGSTERS).exists():
        restore_schema(dagster_url(settings), folder / DAGSTERS)
    click.echo(
        f"Restored {folder}. Run `spotify-pipeline doctor --deep`, forget again those who asked "
        "for it since, and start the pipeline."
    )
