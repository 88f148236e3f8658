"""`spotify-pipeline users`: the group, and the commands that change a user or its connection."""

import sys

import click

from spotify_pipeline.app import disconnect_user, register_user
from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.cli.users.argument import (
    as_argument,
    one_user,
    quoted,
    require_known,
    timezone_option,
    unknown,
)
from spotify_pipeline.cli.users.export_forget import export, forget
from spotify_pipeline.cli.users.list import list_
from spotify_pipeline.cli.users.show import show
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.errors import UsageError, WorkFailed
from spotify_pipeline.redaction import remember
from spotify_pipeline.settings import ConfigurationError, load_settings
from spotify_pipeline.storage.users.connection import reset_connection, store_connection
from spotify_pipeline.storage.users.queries import ENDED, UserStatus, update_user, user_statuses
from spotify_pipeline.sync.admin.keys import load_keyring
from spotify_pipeline.terminal import example

# Spotify's are about 130 or 340 characters long.
LONGEST_TOKEN = 4096

_display_name = click.option("--display-name", metavar="NAME", help="The name to show.")


@click.group()
def users() -> None:
    """Add, change, list and show users."""


@users.command(
    epilog=example(
        "spotify-pipeline users add mira --timezone Europe/Oslo --refresh-token-stdin < token",
        "spotify-pipeline users add mira --timezone Europe/Oslo --display-name 'Mira Solberg'",
    )
)
@one_user
@timezone_option
@_display_name
@click.option(
    "--refresh-token-stdin",
    is_flag=True,
    help="Read the user's Spotify refresh token from standard input (on a terminal: ask for it).",
)
@click.option(
    "--client-id",
    metavar="ID",
    help="The Spotify app that the token was issued to (default: SPOTIFY_CLIENT_ID).",
)
def add(
    user_id: str,
    timezone: str | None,
    display_name: str | None,
    refresh_token_stdin: bool,
    client_id: str | None,
) -> None:
    """Add a user, or update what is given of one. Makes no call to Spotify.

    A new user without --timezone lives in UTC. The token is stored sealed.
    """
    settings = load_settings()
    if timezone is not None:
        check_zone(timezone)
    client_id = client_id or settings.spotify_client_id or ""
    if refresh_token_stdin and not client_id:
        raise ConfigurationError(
            "SPOTIFY_CLIENT_ID is not set: set it to the app that the token was issued to, "
            "or give --client-id."
        )
    token = _read_token() if refresh_token_stdin else None
    with opened_database(settings) as engine:
        keyring = load_keyring(settings, engine) if token else None
        with engine.begin() as conn:
            before = user_statuses(conn, [user_id])
            register_user(conn, user_id, timezone, display_name)
            if token and keyring:
                store_connection(conn, keyring, user_id, token, client_id=client_id)
            status = user_statuses(conn, [user_id])[0]
    _say_added(status, before[0] if before else None, timezone)


def _read_token() -> str:
    """The token from standard input, less one newline. Raises UsageError; never shows it."""
    if sys.stdin.isatty():
        token = str(click.prompt("Refresh token (it is not shown)", hide_input=True, err=True))
    else:
        raw = sys.stdin.buffer.read(LONGEST_TOKEN + 3)
        token = raw.decode("ascii", errors="replace").removesuffix("\n").removesuffix("\r")
    remember(token)
    if not token:
        raise UsageError("Standard input is empty: the refresh token is read from there.")
    if len(token) > LONGEST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise UsageError(
            "Standard input is not a refresh token: it has to be one line of at most "
            f"{LONGEST_TOKEN} characters without blanks."
        )
    return token


def _say_added(status: UserStatus, before: UserStatus | None, timezone: str | None) -> None:
    user = quoted(status.user_id)
    done = "Updated" if before else "Added"
    click.echo(f"{done} {user}: {status.connection}, time zone {status.timezone}.")
    if before and before.timezone != status.timezone:
        _say_stale(user)
    if before is None and timezone is None:
        click.echo(f"Another time zone: spotify-pipeline users set {user} --timezone Europe/Berlin")
    if status.connection in ENDED:
        click.echo(f"Connect: spotify-pipeline connect {user}")
    else:
        click.echo(f"Next: spotify-pipeline sync {as_argument(status.user_id)}")


def _say_stale(user: str) -> None:
    click.echo(
        "Every day is computed again in the new time zone at the next sync, or now: "
        f"spotify-pipeline rebuild {user}"
    )


@users.command("set", epilog=example("spotify-pipeline users set mira --timezone America/New_York"))
@one_user
@timezone_option
@_display_name
def set_(user_id: str, timezone: str | None, display_name: str | None) -> None:
    """Change a user's time zone or name."""
    if timezone is None and display_name is None:
        raise click.UsageError("Give --timezone, --display-name or both.")
    if timezone is not None:
        check_zone(timezone)
    with opened_database(load_settings()) as engine, engine.begin() as conn:
        stale = update_user(conn, user_id, timezone, display_name)
    if stale is None:
        raise unknown(user_id)
    click.echo(f"Updated {quoted(user_id)}.")
    if stale:
        _say_stale(quoted(user_id))


@users.command(epilog=example("spotify-pipeline users disconnect mira"))
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


@users.command(epilog=example("spotify-pipeline users reset mira"))
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


for command in (list_, show, export, forget):
    users.add_command(command)
