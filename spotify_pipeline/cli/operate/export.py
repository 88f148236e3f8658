"""`spotify-pipeline export`: all plays as Parquet files, one folder per month."""

import shutil
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.errors import UsageError
from spotify_pipeline.home import partial_folder
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.listening.plays import read_listens
from spotify_pipeline.storage.tables.dictionary import described_tables
from spotify_pipeline.terminal import count, example

FOLDER = "listens"


@click.command(
    epilog=example(
        "spotify-pipeline export --parquet /data",
        "spotify-pipeline export --parquet /data --since 2026-01-01 --user mira",
    )
)
@click.option(
    "--parquet",
    "to",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder in which `listens` is written, and replaced if it is there.",
)
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First local date.")
@click.option("--user", "user_id", help="Of this user only.")
def export(to: Path, since: datetime | None, user_id: str | None) -> None:
    """Write all plays as Parquet files, for analysts.

    The columns are those of the view `listens`; the files DIR/listens/month=YYYY-MM/plays.parquet
    are by local date. An export replaces the one before, so forgotten users are not in it.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UsageError(
            "This needs pyarrow: install spotify_pipeline[parquet], or run pip install pyarrow."
        ) from None
    with (
        opened_database(load_settings()) as engine,
        engine.connect() as conn,
        partial_folder(to) as partial,
    ):
        rows = _write(partial, read_listens(conn, user_id, since.date() if since else None))
        shutil.rmtree(to / FOLDER, ignore_errors=True)
        partial.rename(to / FOLDER)
    click.echo(f"Wrote {count(rows, 'play')} to {to / FOLDER}.")


def _write(folder: Path, parts: Any) -> int:
    """A file per month; rows come in order of their local date. Returns how many."""
    import pyarrow as pa
    from pyarrow import parquet

    writer: Any = None
    schema, rows, open_month = _schema(), 0, ""
    try:
        for part in parts:
            for month, plays in groupby(part, lambda row: f"{row['local_date']:%Y-%m}"):
                if month != open_month:
                    if writer:
                        writer.close()
                    (folder / f"month={month}").mkdir()
                    path = folder / f"month={month}" / "plays.parquet"
                    writer, open_month = parquet.ParquetWriter(path, schema), month
                table = pa.Table.from_pylist(list(plays), schema=schema)
                writer.write_table(table)
                rows += table.num_rows
    finally:
        if writer:
            writer.close()
    return rows


def _schema() -> Any:
    """The columns of the view, each with its comment in its metadata."""
    import pyarrow as pa

    text, utc = pa.string(), pa.timestamp("ms", tz="UTC")
    types = {"played_at": utc, "local_date": pa.date32(), "ms_listened": pa.int64()}
    (view,) = described_tables(["listens"])
    return pa.schema(
        [
            pa.field(
                column.name,
                types.get(column.name, text),
                metadata={"description": column.comment},
            )
            for column in view.columns
        ]
    )
