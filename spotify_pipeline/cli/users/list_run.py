"""`spotify-pipeline users list --run`: the names behind the numbers of a run over many users."""

from dataclasses import asdict

import click

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.errors import UsageError
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.storage.work.sync_runs import RunUser, run_users
from spotify_pipeline.terminal import count, print_json_list, print_table, printable

_COLUMNS = ("user_id", "outcome", "error_code", "new_plays", "seconds", "what to do")


def list_run(conn: Connection, run_id: str, failed: bool, as_json: bool) -> None:
    """Print who belongs to the run and how it went. Raises UsageError for an unknown run."""
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
        print_table(_COLUMNS, map(_row, chosen))
    total = count(len(users), "user")
    click.echo(f"{len(chosen):,} of {total} failed." if failed else f"{total}.")


def _row(user: RunUser) -> tuple[str, ...]:
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
