"""`spotify-pipeline users export` and `users forget`: a user's data as a file, and its deletion."""

import io
import json
import re
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

import click

from spotify_pipeline.app import forget_user
from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.cli.users.argument import one_user, quoted, require_known
from spotify_pipeline.exports.writers import write_listenbrainz, write_spotify
from spotify_pipeline.home import private_file
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.postgres.engine import database_now
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.storage.users.export import (
    KEPT_BACK,
    ExportedTable,
    export_user,
    read_account,
    read_extended,
    read_heard,
)
from spotify_pipeline.terminal import count, example, printable

# Makes a spreadsheet run a text as a formula, in the widths of East Asian keyboards too. The
# apostrophe is among them so that a program may always take the first one away.
_FORMULA = re.compile("[=+@'\t\r\n\uff1d\uff0b\uff0d\uff20-]")
README = """\
Everything that spotify_pipeline stores about the user {user}, as of {now}.

One CSV file per table, in UTF-8, with a heading. An empty cell is "not known"; an empty text is "".
Instants are in UTC, ISO 8601. Lists and objects are JSON. Not here, because they are keys and not
data: {hidden}.

A text that begins with = + - @ (also in full width), a tab, a line break or an apostrophe has one
apostrophe more before it, so that no spreadsheet runs it as a formula; so has each part of a text
after a semicolon, where some spreadsheets split lines. A program takes the first apostrophe of each
part away.

All other characters of a text are as they were stored, also control characters and those that turn
the direction of writing: a name may look different from what it is, and a terminal that shows a
file raw may obey them.

"""


@click.command(epilog=example("spotify-pipeline users export mira --out mira.zip"))
@one_user
@click.option(
    "--out",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The zip file to write; it must not exist yet.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("csv", "spotify", "listenbrainz")),
    default="csv",
    show_default=True,
    help="csv: every table. The plays alone, for other programs: spotify (its own extended "
    "streaming history) or listenbrainz (JSON lines).",
)
def export(user_id: str, path: Path, form: str) -> None:
    """Write everything stored about a user to a zip of CSV files.

    A README in it explains each table and column. Only you can read the file. Other formats have
    the user's plays alone.
    """
    with (
        opened_database(load_settings()) as engine,
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn,
    ):
        require_known(conn, [user_id])
        with private_file(path, replace=False) as file:
            if form == "csv":
                rows = _write(conn, user_id, file)
            elif form == "spotify":
                rows = write_spotify(
                    file, read_extended(conn, user_id), read_account(conn, user_id)
                )
            else:
                rows = write_listenbrainz(file, read_heard(conn, user_id))
    click.echo(f"Wrote {count(rows, 'row')} about {quoted(user_id)} to {printable(str(path))}.")


def _write(conn: Connection, user_id: str, file: IO[bytes]) -> int:
    total, explained = 0, []
    hidden = ", ".join(f"{table}.{name}" for table, names in KEPT_BACK.items() for name in names)
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for table in export_user(conn, user_id):
            with archive.open(f"{table.name}.csv", "w", force_zip64=True) as member:
                rows = _write_csv(table, io.TextIOWrapper(member, "utf-8", newline=""))
            explained.append(_explained(table, rows))
            total += rows
        now = database_now(conn)
        head = README.format(user=printable(user_id), now=_text(now), hidden=hidden)
        archive.writestr("README.txt", head + "\n".join(explained))
    return total


def _write_csv(table: ExportedTable, file: IO[str]) -> int:
    # An empty text is quoted and NULL is not: QUOTE_NOTNULL came with Python 3.12.
    with file:
        file.write(",".join(name for name, _ in table.columns) + "\r\n")
        rows = 0
        for row in table.rows:
            file.write(",".join("" if value is None else _cell(value) for value in row) + "\r\n")
            rows += 1
    return rows


def _cell(value: Any) -> str:
    text = _text(value)
    if isinstance(value, str | list | dict):
        parts = text.split(";")
        text = ";".join(f"'{part}" if _FORMULA.match(part) else part for part in parts)
    return '"' + text.replace('"', '""') + '"'


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _explained(table: ExportedTable, rows: int) -> str:
    lines = [f"{table.name}.csv, {count(rows, 'row')}. {table.meaning}"]
    lines += [f"  {name}: {meaning}" for name, meaning in table.columns]
    return "\n".join(lines) + "\n"


@click.command(epilog=example("spotify-pipeline users forget mira --yes"))
@one_user
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(user_id: str, yes: bool) -> None:
    """Delete a user and everything stored about them, for good.

    Our rows go at once. What Dagster has recorded of them is deleted by the running daemon, within
    minutes after the last run that knew them.
    """
    with opened_database(load_settings()) as engine:
        with engine.connect() as conn:
            require_known(conn, [user_id])
        if not yes and not click.confirm(f"Delete everything about {quoted(user_id)}?", err=True):
            raise click.ClickException("Nothing was deleted.")
        with engine.begin() as conn:
            forget_user(conn, user_id)
    click.echo(f"Forgot {quoted(user_id)}: every row about them is deleted.")
    click.echo("The daemon (`make dev`) removes their traces from Dagster within minutes.")
