"""`spotify-pipeline keys`: the keys that open refresh tokens."""

import click

from spotify_pipeline.cli.output import example
from spotify_pipeline.domain.sealing import new_key


@click.group()
def keys() -> None:
    """Make keys that open refresh tokens."""


@keys.command(
    epilog=example(
        "spotify-pipeline keys new",
        'export SPOTIFY_PIPELINE_TOKEN_KEYS="$(spotify-pipeline keys new)"',
    )
)
def new() -> None:
    """Print a new key on stdout, and on stderr how to use it. Stores nothing."""
    key_id, text = new_key()
    click.echo(text)
    click.echo(
        f"\nThis is the secret key {key_id}: keep it where your other secrets are, and a copy. "
        "Whoever has it and the database can read every refresh token;\n"
        "without it every user has to reconnect.\n"
        "Set it in SPOTIFY_PIPELINE_TOKEN_KEYS. Beside older keys: the new one first, a comma, "
        "then the older ones,\n"
        "which stay until no stored token needs them.",
        err=True,
    )
