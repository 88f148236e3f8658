"""`spotify-pipeline rebuild`: everything that is computed, again from the stored plays."""

import click

from spotify_pipeline.cli.users.argument import require_known, some_users
from spotify_pipeline.domain.steps import REBUILT
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.users.queries import all_user_ids
from spotify_pipeline.terminal import count, example, printable, progress

BATCH = 100
# A sync of the same user takes seconds; it is waited for.
WAIT_SECONDS = 60


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
            for start in range(0, len(chosen), BATCH):
                batch = chosen[start : start + BATCH]
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
