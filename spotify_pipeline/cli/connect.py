"""`spotify-pipeline connect`: the OAuth consent, and the listener that takes the browser back."""

import errno
import html
import queue
import sys
import threading
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import click

from spotify_pipeline.cli.errors import explain
from spotify_pipeline.cli.users.argument import as_argument, quoted, text_only, timezone_option
from spotify_pipeline.domain.zones import UnknownZone, check_zone
from spotify_pipeline.errors import UsageError, WorkFailed
from spotify_pipeline.redaction import redact
from spotify_pipeline.settings import ConfigurationError, load_settings
from spotify_pipeline.spotify.oauth import Authorization
from spotify_pipeline.storage.users.queries import update_user
from spotify_pipeline.sync.admin.connect import Connected
from spotify_pipeline.sync.admin.connect import connect as redeem_and_store
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline
from spotify_pipeline.terminal import count, example, printable

HOST = "127.0.0.1"
PATH = "/callback"
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
@timezone_option
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
    home = f"http://{HOST}:{port}{PATH}"
    authorization = Authorization(settings.accounts_url, settings.spotify_client_id or "", home)
    with CallbackListener(port, authorization.owns) as listener:
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


# A browser opens connections in advance and says nothing on them.
_SILENT_SECONDS = 10.0
# The page waits for the outcome: two calls to Spotify of 30 s, and Postgres.
_OUTCOME_SECONDS = 120.0
_PAGE_SECONDS = 5.0
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body{{font:18px/1.5 system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 1em}}
</style>
<h1>{title}</h1><p>{sentence}</p></html>
"""


class CallbackListener(ThreadingHTTPServer):
    """Waits for the first request whose query `owns` accepts.

    Others are refused and do not end the wait, or any web page could end it. Raises UsageError if
    the port cannot be used.
    """

    def __init__(self, port: int, owns: Callable[[str], bool]) -> None:
        self._owns = owns
        self._lock = threading.Lock()
        self._answered = False
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.shown = threading.Event()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise _cannot_listen(port, error) from None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def wait(self, seconds: float) -> str | None:
        """The query of the answer; None if none came in time. The browser waits for `show`."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return None

    def show(self, title: str, sentence: str) -> None:
        """Shows the outcome in the browser; returns when the page was sent."""
        self._outcomes.put((title, sentence))
        self.shown.wait(_PAGE_SECONDS)

    def page(self, target: str, hosts: list[str]) -> tuple[HTTPStatus, str, str]:
        """Status, title and sentence for a request with these Host headers."""
        path, _, query = target.partition("?")
        # DNS rebinding: a foreign page whose name resolves to 127.0.0.1 sends its own Host.
        if hosts != [f"{HOST}:{self.server_port}"]:
            return HTTPStatus.MISDIRECTED_REQUEST, "Not here", "This address is not served."
        if path != PATH:
            return HTTPStatus.NOT_FOUND, "Not found", "There is nothing here."
        if not self._owns(query):
            click.echo(
                "An answer came that does not belong to this connection (its state is another). "
                "It is ignored: use the address above.",
                err=True,
            )
            return (
                HTTPStatus.BAD_REQUEST,
                "Not connected",
                "This answer does not belong to the connection that is waiting for one (its state "
                "is another). Open the address that the command printed last.",
            )
        with self._lock:
            if self._answered:
                return HTTPStatus.CONFLICT, "Already answered", "Look at the first page."
            self._answered = True
        self._answers.put(query)
        try:
            return HTTPStatus.OK, *self._outcomes.get(timeout=_OUTCOME_SECONDS)
        except queue.Empty:
            return HTTPStatus.GATEWAY_TIMEOUT, "Still at it", "The terminal shows the outcome."


class _Handler(BaseHTTPRequestHandler):
    server: CallbackListener
    timeout = _SILENT_SECONDS
    server_version = "spotify_pipeline"
    sys_version = ""
    error_message_format = "%(code)d\n"

    def do_GET(self) -> None:
        """A page, always."""
        status, title, sentence = self.server.page(self.path, self.headers.get_all("Host") or [])
        body = _PAGE.format(title=html.escape(title), sentence=html.escape(sentence)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        # The address bar holds the code: no cache may keep it, no Referer may send it.
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if status is HTTPStatus.OK:
            self.server.shown.set()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def _cannot_listen(port: int, error: OSError) -> UsageError:
    why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
    return UsageError(
        f"Port {port} {why}: end what uses it, or choose another with --port and register "
        "http://127.0.0.1:PORT/callback with that port in the Spotify developer dashboard."
    )
