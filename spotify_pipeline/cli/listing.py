"""`spotify-pipeline users list`."""

from dataclasses import asdict

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.cli.output import count, example, instant, print_json, print_table
from spotify_pipeline.cli.people import trouble
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.accounts import UserStatus, user_statuses

_COLUMNS = (
    *("user_id", "display_name", "timezone", "connection", "state", "plays", "days"),
    *("last_synced_at", "next_due_at"),
)


@click.command(
    "list",
    epilog=example("spotify-pipeline users list", "spotify-pipeline users list --failed --json"),
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects; keys are column names.")
@click.option("--failed", is_flag=True, help="Only who needs attention, and what to do.")
def list_(as_json: bool, failed: bool) -> None:
    """List the users."""
    with opened_database(load_settings()) as engine, engine.connect() as conn:
        everybody = user_statuses(conn)
    chosen = [one for one in everybody if trouble(one)] if failed else everybody
    if as_json:
        print_json([asdict(one) for one in chosen])
    elif not everybody:
        click.echo("There are no users yet. Add one: spotify-pipeline users add --help")
    elif failed:
        _print_failed(chosen, len(everybody))
    else:
        print_table(_COLUMNS, [_row(one) for one in chosen])
        click.echo(f"{count(len(chosen), 'user')}.")


def _print_failed(failed: list[UserStatus], total: int) -> None:
    if failed:
        rows = [(one.user_id, one.connection, *(trouble(one) or ())) for one in failed]
        print_table(("user_id", "connection", "error_code", "what to do"), rows)
    click.echo(f"{len(failed):,} of {count(total, 'user')} failed.")


def _row(one: UserStatus) -> tuple[str, ...]:
    return (
        one.user_id,
        one.display_name or "–",
        one.timezone,
        one.connection,
        one.state,
        f"{one.plays:,}",
        f"{one.days:,}",
        instant(one.last_synced_at),
        instant(one.next_due_at),
    )
