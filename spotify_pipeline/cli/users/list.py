"""`spotify-pipeline users list`: all users, or those of a check or of a run."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.cli.users.argument import has_failed, trouble
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.errors import UsageError
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.checks.rules import rule_names, users_violating
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.storage.users.queries import UserStatus, all_user_ids, each_status
from spotify_pipeline.storage.work.sync_runs import RunUser, run_users
from spotify_pipeline.terminal import (
    count,
    example,
    instant,
    print_json_list,
    print_table,
    printable,
)

_COLUMNS = (
    *("user_id", "display_name", "timezone", "connection", "state", "plays", "days"),
    *("last_synced_at", "next_due_at"),
)
_RUN_COLUMNS = ("user_id", "outcome", "error_code", "new_plays", "seconds", "what to do")


@click.command(
    "list",
    epilog=example(
        "spotify-pipeline users list",
        "spotify-pipeline users list --failed --json",
        "spotify-pipeline users list --check days_sum_to_plays",
        "spotify-pipeline users list --run 6f1c0a52-… --failed",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects; keys are column names.")
@click.option("--failed", is_flag=True, help="Only users whose last sync failed, and what to do.")
@click.option(
    "--check",
    metavar="NAME",
    type=click.Choice(rule_names),
    help="Only the users whom this check in Dagster counts: " + ", ".join(rule_names) + ".",
)
@click.option(
    "--run", "run_id", metavar="RUN_ID", help="Only the users of a run of sync_users, and how."
)
def list_(as_json: bool, failed: bool, check: str | None, run_id: str | None) -> None:
    """List the users."""
    if check and run_id:
        raise click.UsageError("Give --check or --run, not both.")
    with (
        opened_database(load_settings()) as engine,
        # No transaction stays open while the reader of a pager takes their time.
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn,
    ):
        if run_id:
            _list_run(conn, run_id, failed, as_json)
            return
        user_ids = all_user_ids(conn)
        found = users_violating(conn, check, datetime.now(UTC)) if check else None
        if found is not None:
            # Rows that outlived their user.
            for user_id in sorted(set(found).difference(user_ids)):
                gone = f"{printable(user_id)} is in users no more, but in the tables."
                click.echo(gone, err=True)
            user_ids = list(set(found).intersection(user_ids))
        users = each_status(conn, found)
        chosen = filter(has_failed, users) if failed else users
        if as_json:
            print_json_list(map(asdict, chosen))
        elif not user_ids and not check:
            click.echo("There are no users yet. Add one: spotify-pipeline users add --help")
        elif failed:
            _print_failed(chosen, len(user_ids))
        else:
            click.echo(f"{count(print_table(_COLUMNS, map(_row, chosen)), 'user')}.")


def _print_failed(failed: Iterable[UserStatus], total: int) -> None:
    rows = ((user.user_id, user.connection, *(trouble(user) or ())) for user in failed)
    printed = 0
    if first := next(rows, None):
        headings = ("user_id", "connection", "error_code", "what to do")
        printed = print_table(headings, chain([first], rows))
    click.echo(f"{printed:,} of {count(total, 'user')} failed.")


def _row(user: UserStatus) -> tuple[str, ...]:
    return (
        user.user_id,
        user.display_name or "–",
        user.timezone,
        user.connection,
        user.state,
        f"{user.plays:,}",
        f"{user.days:,}",
        instant(user.last_synced_at),
        instant(user.next_due_at),
    )


def _list_run(conn: Connection, run_id: str, failed: bool, as_json: bool) -> None:
    """The names behind the numbers of a run over many users. Raises UsageError if unknown."""
    users = run_users(conn, run_id)
    if not users:
        raise UsageError(
            f"No user is noted under the run {printable(run_id)}: it synced no user, is not a run "
            "of sync_users, repeats an earlier run, or is older than its log is kept."
        )
    chosen = [user for user in users if not failed or user.outcome in ("failed", None)]
    if as_json:
        print_json_list(
            {**asdict(user), "what_to_do": _what_to_do(user) or None} for user in chosen
        )
        return
    if chosen:
        print_table(_RUN_COLUMNS, map(_run_row, chosen))
    total = count(len(users), "user")
    click.echo(f"{len(chosen):,} of {total} failed." if failed else f"{total}.")


def _run_row(user: RunUser) -> tuple[str, ...]:
    return (
        user.user_id,
        user.outcome or "not finished",
        user.error_code or "–",
        f"{user.new_plays:,}",
        f"{user.seconds:.1f}",
        _what_to_do(user),
    )


def _what_to_do(user: RunUser) -> str:
    if user.error_code:
        return WHAT_TO_DO[ErrorCode(user.error_code)]
    if user.outcome is None:
        return "The run has not come to this user, or died before it was noted. Sync again."
    return "Another sync was going on. Nothing." if user.outcome == "skipped" else ""
