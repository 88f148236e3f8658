"""`spotify-pipeline keys`: the keys that open refresh tokens."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.domain.sealing import Keyring, new_key
from spotify_pipeline.errors import UsageError, WorkFailed
from spotify_pipeline.settings import Settings, load_settings
from spotify_pipeline.storage.postgres.types import Engine
from spotify_pipeline.sync.admin.keys import (
    Rotation,
    key_file,
    load_keyring,
    publish_key,
    put_first,
    put_last,
    tokens_by_key,
)
from spotify_pipeline.sync.admin.keys import drop as drop_from
from spotify_pipeline.sync.admin.keys import rotate as seal_anew
from spotify_pipeline.terminal import count, example, print_json, print_table, progress

VARIABLE = "SPOTIFY_PIPELINE_TOKEN_KEYS"
STILL_SEALING = (
    "A process that was started before the current key came first still seals with the key it "
    "knows, and so does an app that has the older public key: restart the one, give the other the "
    "new public key."
)


@click.group()
def keys() -> None:
    """Make, list, rotate and drop the keys that open refresh tokens."""


@keys.command(
    epilog=example(
        "spotify-pipeline keys new",
        'export SPOTIFY_PIPELINE_TOKEN_KEYS="$(spotify-pipeline keys new)"',
        "spotify-pipeline keys new --save    # where the home has a key file",
    )
)
@click.option("--save", is_flag=True, help="Make it the current key of the home's key file.")
def new(save: bool) -> None:
    """Print a new key on stdout, and on stderr how to use it. Stores nothing without --save."""
    key_id, text = new_key()
    if save:
        _save(key_id, text)
        return
    click.echo(text)
    click.echo(
        f"\nThis is the secret key {key_id}: keep it where your other secrets are, and a copy. "
        "Anyone with it and the database can read every refresh token;\n"
        "without it every user has to reconnect.\n"
        f"Set it in {VARIABLE}. Beside older keys: first behind them, and when every process has "
        "been\nrestarted with both, before them, then `spotify-pipeline keys rotate`.",
        err=True,
    )


def _save(key_id: str, text: str) -> None:
    with _opened() as (settings, _, _):
        path = key_file(settings)
        if path is None:
            raise UsageError(
                f"Here the keys come from {VARIABLE}: run `keys new` without --save and put the "
                "key there."
            )
        put_first(path, text)
    click.echo(f"{path}: {key_id} is the current key. Next: spotify-pipeline keys rotate")


@keys.command(
    "list", epilog=example("spotify-pipeline keys list", "spotify-pipeline keys list --json")
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects.")
def list_(as_json: bool) -> None:
    """List the keys, and how many users' tokens each opens.

    The app seals with the current public key. What is listed may be published.
    """
    with _opened() as (_, engine, keyring):
        tokens = tokens_by_key(engine)
    rows = [
        (
            key_id,
            "current" if key_id == keyring.current_id else "older",
            tokens.pop(key_id, 0),
            base64.b64encode(keyring.public_key(key_id)).decode(),
        )
        for key_id in keyring.key_ids
    ]
    rows += [(key_id, "missing", number, "") for key_id, number in tokens.items()]
    headings = ("key_id", "state", "tokens", "public_key")
    if as_json:
        print_json([dict(zip(headings, row, strict=True)) for row in rows])
    else:
        print_table(headings, [(row[0], row[1], f"{row[2]:,}", row[3]) for row in rows])


@keys.command(epilog=example("spotify-pipeline keys rotate"))
def rotate() -> None:
    """Seal every stored token anew with the current key.

    Syncs go on meanwhile. Safe to stop and to repeat: the rest is done the next time. Prints
    which older keys no stored token needs any more.
    """
    with _opened() as (settings, engine, keyring):
        tokens = tokens_by_key(engine)
        others = sum(tokens.values()) - tokens.get(keyring.current_id, 0)
        if others:
            with progress("Sealing anew", others) as advance:
                rotation = seal_anew(engine, keyring, advance)
        else:
            rotation = Rotation()
        left = tokens_by_key(engine)
    click.echo(
        f"{count(rotation.resealed, 'user')} sealed anew; "
        f"{count(left.get(keyring.current_id, 0), 'token')} with the key {keyring.current_id}."
    )
    for reason, number in rotation.unopened.items():
        click.echo(f"{count(number, 'token')} left as before: {reason}", err=True)
    unused = [key_id for key_id in keyring.key_ids[1:] if key_id not in left]
    if unused:
        where = f"spotify-pipeline keys drop {unused[0]}"
        to_do = where if key_file(settings) else f"take it out of {VARIABLE}"
        click.echo(f"No stored token needs {', '.join(unused)} any more. {STILL_SEALING}")
        click.echo(f"When that is done: {to_do}. Older backups need it: keep a copy with them.")
    if still := sum(number for key_id, number in left.items() if key_id != keyring.current_id):
        raise WorkFailed(
            f"{count(still, 'token')} not sealed anew: put the keys that are missing back, or have "
            "these users reconnect, and run it again."
        )


@keys.command(epilog=example("spotify-pipeline keys drop 1f0c9a7b2d34"))
@click.argument("key_id")
def drop(key_id: str) -> None:
    """Take an older key out of the home's key file.

    Refused while a stored token needs it. Where keys come from SPOTIFY_PIPELINE_TOKEN_KEYS it only
    says whether the key can go.
    """
    with _opened() as (settings, engine, keyring):
        if key_id not in keyring.key_ids:
            raise UsageError("There is no such key. `spotify-pipeline keys list` shows all.")
        if key_id == keyring.current_id:
            raise UsageError("This is the current key: make another one current first.")
        if needed := tokens_by_key(engine).get(key_id, 0):
            raise WorkFailed(
                f"{count(needed, 'token')} still sealed with {key_id}: run "
                f"`spotify-pipeline keys rotate`. {STILL_SEALING}"
            )
        path = key_file(settings)
        if path is None:
            click.echo(f"No stored token needs {key_id}: take it out of {VARIABLE}.")
            return
        entry = drop_from(path, key_id)
        if tokens_by_key(engine).get(key_id, 0):
            # A process that did not know of the rotation has just used it.
            put_last(path, entry)
            raise WorkFailed(f"A token was just sealed with {key_id}. {STILL_SEALING}")
    click.echo(f"Dropped {key_id} from {path}. Backups from before need it.")


@contextmanager
def _opened() -> Iterator[tuple[Settings, Engine, Keyring]]:
    settings = load_settings()
    with opened_database(settings) as engine:
        keyring = load_keyring(settings, engine)
        publish_key(engine, keyring)
        yield settings, engine, keyring
