"""`spotify-pipeline import-history`: a user's own export, row by row accounted for."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from spotify_pipeline.cli.users.argument import one_user, require_known
from spotify_pipeline.domain.import_receipt import FATES, FileReceipt, Receipt
from spotify_pipeline.settings import load_settings
from spotify_pipeline.terminal import (
    count,
    example,
    instant,
    print_json,
    print_table,
    printable,
    progress,
)


@click.command(
    "import-history",
    epilog=example(
        "spotify-pipeline import-history mira my_spotify_data.zip --dry-run",
        "spotify-pipeline import-history mira my_spotify_data.zip",
    ),
)
@one_user
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--dry-run", is_flag=True, help="Print the receipt, store nothing.")
@click.option("--include-incognito", is_flag=True, help="Store private sessions too.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
def import_history(
    user_id: str, paths: Sequence[Path], dry_run: bool, include_incognito: bool, as_json: bool
) -> None:
    """Import the listening history that Spotify hands out to a user.

    PATH is the zip as Spotify sent it, a folder, or a JSON file: the extended streaming history,
    the account data, or both. Spotify is not called. Importing again adds nothing.
    docs/history-import.md explains the receipt.
    """
    from spotify_pipeline.exports.reader import read_exports
    from spotify_pipeline.sync.import_history import import_history as run
    from spotify_pipeline.sync.pipeline import open_pipeline

    settings = load_settings()
    with open_pipeline(settings) as pipeline:
        with pipeline.engine.connect() as conn:
            require_known(conn, [user_id])
        files = list(read_exports(paths, now=pipeline.now(), include_incognito=include_incognito))
        with progress("Reading bytes", sum(file.size for file in files)) as advance:
            receipt = run(pipeline, user_id, files, dry_run=dry_run, advance=advance)
        if not dry_run:
            # Dagster's modules are 100 MB, so only now. Importing again reports again.
            from spotify_pipeline.defs.in_process import opened_instance, report_import

            with opened_instance(settings) as instance:
                report_import(instance, user_id, receipt)
    if as_json:
        print_json(_as_json(receipt))
    else:
        _print(user_id, receipt, dry_run=dry_run)


def _as_json(receipt: Receipt) -> dict[str, object]:
    def counts(of: Receipt | FileReceipt) -> dict[str, object]:
        return {
            "rows_read": of.rows_read,
            "fates": {fate: of.fates.get(fate, 0) for fate in FATES},
            "first_at": of.first_at,
            "last_at": of.last_at,
        }

    return {
        **counts(receipt),
        "files": [
            {
                "name": file.name,
                "source": file.source,
                **counts(file),
                "malformed_rows": [
                    {"index": index, "reason": reason} for index, reason in file.malformed
                ],
            }
            for file in receipt.files
        ],
        "both_know": receipt.estimate and asdict(receipt.estimate),
    }


def _print(user_id: str, receipt: Receipt, *, dry_run: bool) -> None:
    rows = [(fate, f"{number:,}", FATES[fate]) for fate, number in receipt.fates.items() if number]
    print_table(("Fate", "Rows", "Meaning"), [*rows, ("all", f"{receipt.rows_read:,}", "")])
    click.echo()
    print_table(
        ("File", "Kind", "Rows", "From", "To", "Fates"),
        [
            (
                file.name,
                file.source,
                f"{file.rows_read:,}",
                instant(file.first_at),
                instant(file.last_at),
                ", ".join(f"{fate} {file.fates[fate]:,}" for fate in FATES if file.fates.get(fate)),
            )
            for file in receipt.files
        ],
    )
    for file in receipt.files:
        for index, reason in file.malformed:
            click.echo(f"{printable(file.name)}, row {index}: {printable(reason)}.", err=True)
    if estimate := receipt.estimate:
        click.echo(
            f"\nOf {count(estimate.days, 'day')} that the API and the export both know: "
            f"{_minutes(estimate.estimated_ms)} minutes estimated from the API, "
            f"{_minutes(estimate.heard_ms)} heard."
        )
    done = "Nothing was stored (--dry-run)." if dry_run else "The history is stored."
    click.echo(f"\n{printable(user_id)}: {done}")


def _minutes(milliseconds: int) -> str:
    return f"{(milliseconds + 30_000) // 60_000:,}"
