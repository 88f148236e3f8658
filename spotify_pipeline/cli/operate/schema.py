"""`spotify-pipeline schema`: what analysts may read, as dbt sources or as a page.

It needs no database. deploy/dbt/models/sources.yml and docs/data-dictionary.md are its output.
"""

from collections.abc import Iterable, Iterator
from json import dumps

import click

from spotify_pipeline.domain import outcome
from spotify_pipeline.storage.postgres.roles import ANALYST_READABLE, READABLE
from spotify_pipeline.storage.tables.base import SCHEMA
from spotify_pipeline.storage.tables.dictionary import DescribedTable, described_tables
from spotify_pipeline.terminal import example

# The asset that fills a table, for dagster-dbt; tables with several assets have none here.
ASSETS = {
    "plays": outcome.RECENTLY_PLAYED,
    "daily_listening": outcome.DAILY_LISTENING,
    "music_personality": outcome.MUSIC_PERSONALITY,
}
# Name: (type, description, what it reads).
EXPOSURES = {
    "app": (
        "application",
        "What apps read with the role spotify_app, the web page among them.",
        sorted({*READABLE} & {*ANALYST_READABLE}),
    ),
    "parquet_export": (
        "analysis",
        "The files of `spotify-pipeline export --parquet`.",
        ["listens"],
    ),
}


@click.command(
    epilog=example(
        "spotify-pipeline schema --dbt > models/sources.yml",
        "spotify-pipeline schema --markdown > dictionary.md",
    )
)
@click.option("--dbt", "form", flag_value="dbt", help="Sources and exposures of a dbt project.")
@click.option("--markdown", "form", flag_value="markdown", help="A page with a table for each.")
def schema(form: str | None) -> None:
    """Describe the tables and views that the role spotify_analyst may read.

    Made from the comments that also stand in the database.
    """
    if form is None:
        raise click.UsageError("Say which form: --dbt or --markdown.")
    tables = described_tables(ANALYST_READABLE)
    lines = _sources(tables) if form == "dbt" else _page(tables)
    click.echo("\n".join(lines))


def _sources(tables: Iterable[DescribedTable]) -> Iterator[str]:
    """YAML, in which every text is a JSON string."""
    yield "# Written by `spotify-pipeline schema --dbt`."
    yield "version: 2"
    yield "sources:"
    yield f"  - name: {SCHEMA}"
    yield '    description: "What users listen to on Spotify, read with the role spotify_analyst."'
    yield "    tables:"
    for table in tables:
        yield f"      - name: {table.name}"
        yield f"        description: {_quoted(table.comment)}"
        if asset := ASSETS.get(table.name):
            yield f"        config: {{meta: {{dagster: {{asset_key: [{asset}]}}}}}}"
        yield "        columns:"
        for column in table.columns:
            yield f"          - name: {column.name}"
            yield f"            data_type: {_quoted(column.type)}"
            yield f"            description: {_quoted(column.comment)}"
    yield "exposures:"
    for name, (kind, description, reads) in EXPOSURES.items():
        yield f"  - name: {name}"
        yield f"    type: {kind}"
        yield "    owner: {name: listening}"
        yield f"    description: {_quoted(description)}"
        yield "    depends_on:"
        yield from (f"      - source('{SCHEMA}', '{table}')" for table in reads)


def _page(tables: Iterable[DescribedTable]) -> Iterator[str]:
    yield "# Data dictionary"
    yield ""
    yield "<!-- Written by `spotify-pipeline schema --markdown`. -->"
    yield f"What the role `spotify_analyst` may read in the schema `{SCHEMA}`. The same texts are"
    yield "the comments in the database. Missing is NULL, never 0; instants are UTC."
    for table in tables:
        yield from ("", f"## {table.name}", "", table.comment, "")
        if table.key:
            yield from (f"Primary key: {', '.join(f'`{name}`' for name in table.key)}.", "")
        yield "| column | type | NULL | meaning |"
        yield "| --- | --- | --- | --- |"
        for column in table.columns:
            null = "yes" if column.nullable else ""
            meaning = column.comment.replace("|", "\\|")
            yield f"| `{column.name}` | {column.type} | {null} | {meaning} |"


def _quoted(text: str) -> str:
    return dumps(text, ensure_ascii=False)
