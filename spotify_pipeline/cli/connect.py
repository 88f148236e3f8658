"""`spotify-pipeline connect`: the OAuth consent in a browser on this machine."""

import sys
import webbrowser

import click

from spotify_pipeline.cli.callback import CallbackListener, redirect_uri
from spotify_pipeline.cli.errors import explain
from spotify_pipeline.cli.users.argument import as_argument, quoted, text_only
from spotify_pipeline.domain.zones import UnknownZone, check_zone
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.redaction import redact
from spotify_pipeline.settings import ConfigurationError, load_settings
from spotify_pipeline.spotify.authorization import Authorization
from spotify_pipeline.storage.users.queries import update_user
from spotify_pipeline.sync.admin.connect import Connected
from spotify_pipeline.sync.admin.connect import connect as redeem_and_store
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline
from spotify_pipeline.terminal import count, example, printable

# Fixed, because Spotify compares the redirect address to the letter; not assigned by IANA.
PORT = 8898
SECONDS = 300


@click.command(
    epilog=example(
        "spotify-pipeline connect --timezone Europe/Oslo",
        "spotify-pipeline connect mira --no-browser",
    )
)
@click.argument("user_id", metavar="[USER]", required=False, callback=text_only)
@click.option(
    "--timezone",
    metavar="ZONE",
    help="IANA time zone, such as Europe/Berlin, in whose local days listening is counted.",
)
@click.option(
    "--port",
    default=PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Where the browser comes back to. Register http://127.0.0.1:PORT/callback, with this very "
    "port, among the app's redirect URIs in the Spotify developer dashboard.",
)
@click.option(
    "--seconds",
    default=SECONDS,
    show_default=True,
    type=click.IntRange(1, 3600),
    help="How long to wait for the browser.",
)
@click.option("--no-browser", is_flag=True, help="Only print the address to open.")
@click.option("--sync/--no-sync", default=None, help="Sync afterwards (default: ask).")
@click.pass_context
def connect(
    ctx: click.Context,
    user_id: str | None,
    timezone: str | None,
    port: int,
    seconds: int,
    no_browser: bool,
    sync: bool | None,
) -> None:
    """Connect a user's Spotify account, in a browser here.

    Without USER the user is called as Spotify calls the account. A connected user is connected
    again, with all history; another Spotify account than before is refused.
    """
    settings = load_settings()
    if timezone is not None:
        check_zone(timezone)
    if not settings.spotify_client_id:
        raise ConfigurationError(
            "SPOTIFY_CLIENT_ID is not set: it is on your app's page in the Spotify developer "
            "dashboard."
        )
    with open_pipeline(settings) as pipeline:
        connected = _connect(pipeline, user_id, timezone, port, seconds, no_browser)
        click.echo(_success(connected))
        if connected.is_new and timezone is None:
            _ask_zone(pipeline, connected)
    if sync or (sync is None and _is_interactive() and click.confirm("Sync now?", default=True)):
        from spotify_pipeline.cli.sync import sync as sync_command

        ctx.invoke(sync_command, users=(connected.user_id,))
    else:
        click.echo(f"Next: spotify-pipeline sync {as_argument(connected.user_id)}")


def _connect(
    pipeline: Pipeline,
    user_id: str | None,
    timezone: str | None,
    port: int,
    seconds: int,
    no_browser: bool,
) -> Connected:
    settings = pipeline.settings
    home = redirect_uri(port)
    authorization = Authorization(settings.accounts_url, settings.spotify_client_id or "", home)
    with CallbackListener(port, authorization.owns, _say_stranger) as listener:
        _invite(authorization.address, no_browser)
        answer = listener.wait(seconds)
        if answer is None:
            raise WorkFailed(_too_late(seconds, home))
        try:
            connected = redeem_and_store(pipeline, authorization, answer, user_id, timezone)
        except Exception as error:
            listener.show("Not connected", explain(error)[0])
            raise
        listener.show("Connected", f"{_success(connected)} You can close this page.")
    return connected


def _invite(address: str, no_browser: bool) -> None:
    click.echo("Agree at Spotify, in a browser on this machine:", err=True)
    click.echo(f"\n  {address}\n", err=True)
    if not no_browser and not webbrowser.open(address):
        click.echo("No browser could be opened: open the address yourself.", err=True)
    click.echo("Waiting for Spotify to send the browser back ... (Ctrl-C ends it)", err=True)


def _say_stranger() -> None:
    click.echo(
        "An answer came that does not belong to this connection (its state is another). It is "
        "ignored: use the address above.",
        err=True,
    )


def _too_late(seconds: int, home: str) -> str:
    return (
        f"No answer came within {count(seconds, 'second')}, nothing was connected. If Spotify's "
        f"page mentions an invalid redirect URI, add exactly {home} to the app's redirect URIs in "
        "the Spotify developer dashboard; if of an invalid client, check SPOTIFY_CLIENT_ID. Then "
        "run it again."
    )


def _success(connected: Connected) -> str:
    name = f" ({connected.display_name})" if connected.display_name else ""
    return printable(f"{connected.user_id}{name} is connected to Spotify.")


def _ask_zone(pipeline: Pipeline, connected: Connected) -> None:
    """A new user's time zone; without a terminal it stays UTC."""
    user = quoted(connected.user_id)
    if not _is_interactive():
        click.echo(
            "Days are counted in UTC. Another time zone: "
            f"spotify-pipeline users set {user} --timezone Europe/Berlin"
        )
        return
    zone = click.prompt("Time zone, such as Europe/Berlin", default="UTC", value_proc=_zone)
    with pipeline.engine.begin() as conn:
        update_user(conn, connected.user_id, zone, None)


def _zone(text: str) -> str:
    try:
        check_zone(text)
    except UnknownZone as unknown:
        raise click.BadParameter(redact(str(unknown))) from None
    return text


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
