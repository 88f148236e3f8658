"""`spotify-pipeline web`: the page that users look at, until Ctrl-C."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from secrets import token_urlsafe

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.errors import UsageError
from spotify_pipeline.home import kept_secret
from spotify_pipeline.settings import Settings, load_settings
from spotify_pipeline.storage.postgres.database import leave_database
from spotify_pipeline.storage.postgres.web_login import web_url
from spotify_pipeline.terminal import example

PORT = 8000
SECRET_FILE = "web-secret"  # noqa: S105 (a file name)


@click.command(
    epilog=example("spotify-pipeline web", "spotify-pipeline web --port 8080 --host 0.0.0.0")
)
@click.option(
    "--port",
    default=PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Register http://127.0.0.1:PORT/callback, with this very port, among the app's redirect "
    "URIs in the Spotify developer dashboard.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Others than loopback need a proxy with https in front, and "
    "SPOTIFY_PIPELINE_WEB_URL.",
)
def web(port: int, host: str) -> None:
    """Serve the web page, where users sign in with Spotify and see what is kept.

    It needs `spotify-pipeline init-db` once, and a running pipeline (`spotify-pipeline dev`) for
    its Sync button.
    """
    from spotify_pipeline.web.server import serve
    from spotify_pipeline.web.site import Config

    settings = load_settings()
    if host not in ("127.0.0.1", "::1", "localhost") and settings.web_url is None:
        raise UsageError(
            f"On {host} others reach the page: set SPOTIFY_PIPELINE_WEB_URL to the https address "
            "under which your proxy serves it."
        )
    with _left_at_the_end(settings):
        # The one thing that is done with the pipeline's rights: is the schema there?
        if settings.database_url is None and settings.web_database_url is None:
            with opened_database(settings):
                pass
        secrets = (settings.spotify_client_secret, settings.revalidate_secret)
        client_secret, hook_secret = (s.get_secret_value() if s else None for s in secrets)
        config = Config(
            url=settings.web_url or f"http://127.0.0.1:{port}",
            database_url=web_url(settings),
            secret=_secret(settings),
            client_id=settings.spotify_client_id,
            client_secret=client_secret,
            accounts_url=settings.accounts_url,
            api_url=settings.api_url,
            hook_secret=hook_secret,
            accounts=frozenset(
                account.strip()
                for account in (settings.web_accounts or "").split(",")
                if account.strip()
            ),
            keep_plays_days=settings.keep_plays_days,
        )
        serve(
            config,
            host,
            port,
            lambda: click.echo(f"The web page is at {config.url} (Ctrl-C stops it)."),
        )


@contextmanager
def _left_at_the_end(settings: Settings) -> Iterator[None]:
    try:
        yield
    finally:
        leave_database(settings)


def _secret(settings: Settings) -> str:
    if settings.web_secret is not None:
        return settings.web_secret.get_secret_value()
    return kept_secret(settings.home, SECRET_FILE, token_urlsafe(48))


def hook_environment(settings: Settings, port: int) -> Mapping[str, str]:
    """What lets the pipeline call this page's cache hook; nothing if a hook is configured."""
    if settings.revalidate_url is not None:
        return {}
    return {
        "SPOTIFY_PIPELINE_REVALIDATE_URL": f"http://127.0.0.1:{port}/hooks/revalidate",
        "SPOTIFY_PIPELINE_REVALIDATE_SECRET": (
            settings.revalidate_secret.get_secret_value()
            if settings.revalidate_secret
            else token_urlsafe(32)
        ),
    }
