"""`spotify-pipeline users disconnect` and `users reset`: what an operator does to a connection."""

import click

from spotify_pipeline.app import disconnect_user
from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.cli.users.argument import (
    as_argument,
    one_user,
    quoted,
    require_known,
    unknown,
)
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.users.connection import reset_connection
from spotify_pipeline.storage.users.queries import ENDED
from spotify_pipeline.terminal import example


@click.command(epilog=example("spotify-pipeline users disconnect mira"))
@one_user
def disconnect(user_id: str) -> None:
    """Delete a user's token, so that Spotify is not asked any more. All data is kept.

    Repeating it changes nothing. To connect again: spotify-pipeline connect USER. The user can
    also take the permission away, on their account's page at Spotify under Apps.
    """
    with opened_database(load_settings()) as engine, engine.begin() as conn:
        require_known(conn, [user_id])
        disconnect_user(conn, user_id)
    user = quoted(user_id)
    click.echo(f"Disconnected {user}: the token is deleted, the data is kept.")
    click.echo(f"Connect again: spotify-pipeline connect {as_argument(user_id)}")


@click.command(epilog=example("spotify-pipeline users reset mira"))
@one_user
def reset(user_id: str) -> None:
    """Let a user's stored token be tried once more.

    For a user whom Spotify refused though nothing was wrong. Failures are forgotten, needs_reauth
    and suspect become connected, and the user is due at once. If Spotify refuses again, the state
    comes back. A token past its end, or none at all, needs `spotify-pipeline connect`. No play is
    ever deleted.
    """
    with opened_database(load_settings()) as engine, engine.begin() as conn:
        connection = reset_connection(conn, user_id)
    if connection is None:
        raise unknown(user_id)
    user = quoted(user_id)
    if connection in ENDED:
        why = "has no token" if connection == "disconnected" else "has a token that is past its end"
        raise WorkFailed(
            f"{user} {why}, so there is nothing to try. Connect again: "
            f"spotify-pipeline connect {user}"
        )
    click.echo(f"Reset {user}: {connection}.")
    click.echo(f"Next: spotify-pipeline sync {as_argument(user_id)}")
