"""The keys that open refresh tokens: from the environment, or a file in the home."""

import os
from pathlib import Path

from sqlalchemy import Engine, select

from spotify_pipeline.domain.sealing import BadKeys, Keyring, new_key
from spotify_pipeline.settings import ConfigurationError, Settings
from spotify_pipeline.storage import tables as t

KEY_FILE = "token-keys"


def load_keyring(settings: Settings, engine: Engine) -> Keyring:
    """The configured keys; with the embedded database a key file is made at first use.

    A missing key is never replaced beside tokens that it sealed: that would lose every connection.
    Raises ConfigurationError.
    """
    if settings.token_keys is not None:
        return _parse(settings.token_keys.get_secret_value(), "SPOTIFY_PIPELINE_TOKEN_KEYS")
    if settings.database_url is not None:
        raise ConfigurationError(
            "SPOTIFY_PIPELINE_TOKEN_KEYS is not set: with a database of your own the keys that "
            "open refresh tokens come from the environment. Run `spotify-pipeline keys new` to "
            "make one."
        )
    path = settings.home / KEY_FILE
    if not path.exists():
        with engine.connect() as conn:
            if conn.execute(select(t.user_tokens.c.user_id).limit(1)).first():
                raise ConfigurationError(
                    f"The key file {path} is missing, but the database holds tokens sealed with "
                    "its key. Restore the file from your backup; without it every user has to "
                    "reconnect."
                )
        _create(path)
    return _parse(path.read_text(), str(path))


def _create(path: Path) -> None:
    """Write a new key that appears whole or not at all; of several processes the first wins."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(new_key()[1] + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _parse(text: str, source: str) -> Keyring:
    try:
        return Keyring.parse(text)
    except BadKeys as error:
        raise ConfigurationError(f"{source}: {error}") from None
