"""`spotify-pipeline sync` and `rebuild`: the jobs of the graph, and days anew from stored plays."""

import gc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import uuid4

import click

from spotify_pipeline.cli.users.argument import require_known, some_users
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.outcome import DAILY_LISTENING, REBUILT, RECENTLY_PLAYED
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.redaction import redact
from spotify_pipeline.settings import ConfigurationError, Settings, load_settings
from spotify_pipeline.storage.postgres.types import Connection, Engine, SQLAlchemyError
from spotify_pipeline.storage.users.queries import all_user_ids, select_users, user_statuses
from spotify_pipeline.storage.work import sync_runs
from spotify_pipeline.terminal import Advance, count, example, printable, progress

POLL_SECONDS = 0.5
REBUILD_BATCH = 100
# A sync of the same user takes seconds; a rebuild waits for it.
WAIT_SECONDS = 60


@click.command(
    epilog=example(
        "spotify-pipeline sync mira",
        "spotify-pipeline sync --due      # for cron, where no Dagster daemon runs",
    )
)
@some_users
@click.option("--active", is_flag=True, help="Who listened, connected or synced within 7 days.")
@click.option("--due", is_flag=True, help="Whose plays should be collected now.")
@click.option("--all", "eligible", is_flag=True, help="All users whose connection can be used.")
def sync(users: tuple[str, ...], active: bool, due: bool, eligible: bool) -> None:
    """Bring users up to date, in this process.

    The work is recorded in Dagster like any run: one USER as the job sync_user, more as sync_users.
    Nothing is skipped because it is fresh, and no cooldown starts.
    """
    chosen = {"active": active, "due": due, "eligible": eligible}
    selections = [selection for selection, wanted in chosen.items() if wanted]
    if len(selections) + bool(users) != 1:
        raise click.UsageError("Give users, or one of --active, --due and --all.")
    settings = load_settings()
    if not settings.spotify_client_id:
        raise ConfigurationError(
            "SPOTIFY_CLIENT_ID is not set: it is on your app's page in the Spotify developer "
            "dashboard."
        )
    if len(set(users)) == 1:
        # Collections would take 0.1 s of CPU, and the command ends before they free much.
        gc.disable()
        _sync_one(settings, users[0])
    else:
        _sync_many(settings, users, selections[0] if selections else None)


def _sync_one(settings: Settings, user_id: str) -> None:
    from spotify_pipeline.defs.in_process import new_rows, opened_instance, sync_user, why_failed
    from spotify_pipeline.sync.pipeline import open_pipeline

    with open_pipeline(settings) as pipeline:
        with pipeline.engine.connect() as conn:
            require_known(conn, [user_id])
        with opened_instance(settings) as instance, progress("Syncing", 1) as advance:
            result = sync_user(instance, user_id)
            advance(1)
        with pipeline.engine.connect() as conn:
            failure = _in_short(conn, user_id, why_failed(result))
        if failure:
            raise WorkFailed(f"{printable(user_id)}: {failure} (run {result.run_id})")
    new = new_rows(result)
    click.echo(
        f"{printable(user_id)} is up to date: {count(new.get(RECENTLY_PLAYED, 0), 'new play')}, "
        f"{count(new.get(DAILY_LISTENING, 0), 'new day')}."
    )


def _in_short(conn: Connection, user_id: str, failure: str | None) -> str | None:
    """Code and what to do, as the run stored it for the user; None if the sync did everything.

    A user who has to reconnect fails no run.
    """
    for status in user_statuses(conn, [user_id]):
        code = status.last_error_code
        if code and (f"{code}." in failure if failure else code == ErrorCode.RECONNECT):
            return _sentence(code, status.last_error_message)
    return failure.splitlines()[0] if failure else None


def _sync_many(settings: Settings, users: Sequence[str], selection: str | None) -> None:
    from spotify_pipeline.defs.in_process import opened_instance, sync_many, why_failed
    from spotify_pipeline.sync.pipeline import open_pipeline, utc_now
    from spotify_pipeline.sync.runs import ENLISTED

    run_id = str(uuid4())
    with open_pipeline(settings) as pipeline:
        with pipeline.engine.begin() as conn:
            chosen = (
                select_users(conn, selection, utc_now())
                if selection
                else require_known(conn, users)
            )
            # The users are in sync_run_users: no user id enters the run's configuration.
            sync_runs.enlist(conn, run_id, chosen)
        if not chosen:
            click.echo("There is no user to sync. `spotify-pipeline users list` shows all users.")
            return
        with opened_instance(settings) as instance, progress("Syncing", len(chosen)) as advance:
            with _watched(pipeline.engine, run_id, advance):
                failure = why_failed(sync_many(instance, run_id, ENLISTED))
            advance(len(chosen))
        _report_outcomes(pipeline.engine, run_id, len(chosen), failure)


@contextmanager
def _watched(engine: Engine, run_id: str, advance: Advance) -> Iterator[None]:
    """Prints the progress of a run, from its rows in sync_run_users, while the block runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            # A database error here also fails the run, which reports it.
            with suppress(SQLAlchemyError), engine.connect() as conn:
                advance(sync_runs.count_done(conn, run_id))

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _report_outcomes(engine: Engine, run_id: str, total: int, failure: str | None) -> None:
    """Prints a line for each user who failed or was skipped, then totals. Raises WorkFailed."""
    with engine.connect() as conn:
        rows = sync_runs.run_users(conn, run_id)
        # A row without an outcome: the process that had the user died.
        failed = {
            row.user_id: row.error_code or ErrorCode.CRASHED
            for row in rows
            if row.outcome in ("failed", None)
        }
        messages = {
            status.user_id: status.last_error_message
            for status in user_statuses(conn, list(failed))
            if status.last_error_code == failed[status.user_id]
        }
    if failure:
        # Users without an outcome failed with the error that ended the run.
        unreached = {row.user_id for row in rows if row.outcome is None}
        messages |= dict.fromkeys(unreached, failure.splitlines()[0])
    for user_id, code in failed.items():
        line = f"{user_id}: {_sentence(code, messages.get(user_id))}"
        click.echo(printable(redact(line)), err=True)
    for row in rows:
        if row.outcome == "skipped":
            click.echo(
                f"{printable(row.user_id)}: left out, another process syncs this user.", err=True
            )
    synced = sum(row.outcome == "synced" for row in rows)
    new_plays = sum(row.new_plays for row in rows)
    click.echo(f"{synced:,} of {count(total, 'user')} synced, {count(new_plays, 'new play')}.")
    if failed:
        raise WorkFailed(f"{len(failed):,} of {count(total, 'user')} failed (run {run_id}).")
    if failure:
        raise WorkFailed(f"The run {run_id} failed: {failure.splitlines()[0]}")


def _sentence(code: str, message: str | None) -> str:
    return f"{code}. {message or WHAT_TO_DO[ErrorCode(code)]}"


@click.command(
    epilog=example("spotify-pipeline rebuild mira", "spotify-pipeline rebuild      # all users")
)
@some_users
def rebuild(users: tuple[str, ...]) -> None:
    """Compute days and personality again from stored plays.

    For these users, or for all; their plays and days are counted again too. Spotify is not
    asked, so it works without SPOTIFY_CLIENT_ID. The cache hook gets the users whose data changed.
    """
    from spotify_pipeline.sync.pipeline import open_pipeline
    from spotify_pipeline.sync.users import rebuild_users

    changed = 0
    unfinished: dict[str, str] = {}
    with open_pipeline(load_settings()) as pipeline:
        with pipeline.engine.connect() as conn:
            chosen = require_known(conn, users) if users else all_user_ids(conn)
        with progress("Rebuilding", len(chosen)) as advance:
            for start in range(0, len(chosen), REBUILD_BATCH):
                batch = chosen[start : start + REBUILD_BATCH]
                for outcome in rebuild_users(pipeline, batch, wait_seconds=WAIT_SECONDS):
                    rebuilt = [outcome.done[step] for step in REBUILT if step in outcome.done]
                    changed += sum(rows.new + rows.changed for rows in rebuilt)
                    if outcome.failure:
                        failure = outcome.failure
                        unfinished[outcome.user_id] = f"{failure.code}. {failure.message}"
                    elif outcome.skipped:
                        unfinished[outcome.user_id] = f"{outcome.skipped} Rebuild again later."
                advance(start + len(batch))
    for user_id, why in unfinished.items():
        click.echo(f"{printable(user_id)}: {why}", err=True)
    done = len(chosen) - len(unfinished)
    click.echo(
        f"{done:,} of {count(len(chosen), 'user')} rebuilt, {count(changed, 'row')} changed."
    )
    if unfinished:
        raise WorkFailed(f"{len(unfinished):,} of {count(len(chosen), 'user')} were not rebuilt.")
