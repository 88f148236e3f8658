"""The keys that open refresh tokens, from the environment or a file in the home; their rotation."""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nacl.public import PrivateKey

from spotify_pipeline.domain.sealing import BadKeys, Keyring, SealError, new_key, seal
from spotify_pipeline.settings import ConfigurationError, Settings
from spotify_pipeline.storage.postgres.types import Engine
from spotify_pipeline.storage.users.key_rotation import (
    SealedRow,
    count_by_key,
    lock_other_keys,
    replace_sealed,
    set_sealing_key,
)

KEY_FILE = "token-keys"


BATCH = 200
# A row that others write all the time is free again in milliseconds.
BUSY_SECONDS = 0.2
BUSY_ROUNDS = 150


@dataclass(frozen=True)
class FileKeyring(Keyring):
    """The keys of a file; one that was added since it was read is found as well."""

    path: Path | None = None

    def _key(self, key_id: str) -> PrivateKey:
        if key_id not in self.keys and self.path is not None:
            return Keyring(self.current_id, read_key_file(self.path).keys)._key(key_id)
        return super()._key(key_id)


def load_keyring(settings: Settings, engine: Engine) -> Keyring:
    """The configured keys; with the embedded database a key file is made at first use.

    A missing key is never replaced beside tokens that it sealed: that would lose every connection.
    Raises ConfigurationError.
    """
    if settings.token_keys is not None:
        return _parse(settings.token_keys.get_secret_value(), "SPOTIFY_PIPELINE_TOKEN_KEYS")
    path = key_file(settings)
    if path is None:
        raise ConfigurationError(
            "SPOTIFY_PIPELINE_TOKEN_KEYS is not set: with a database of your own the keys that "
            "open refresh tokens come from the environment. Run `spotify-pipeline keys new` to "
            "make one."
        )
    if not path.exists():
        with engine.connect() as conn:
            if count_by_key(conn):
                raise ConfigurationError(
                    f"The key file {path} is missing, but the database holds tokens sealed with "
                    "its key. Restore the file from your backup; without it every user has to "
                    "reconnect."
                )
        _create(path)
    return read_key_file(path)


def publish_key(engine: Engine, keyring: Keyring) -> None:
    """Make the public half of the current key the one that apps find in the database."""
    with engine.begin() as conn:
        set_sealing_key(conn, keyring.current_id, keyring.public_key(keyring.current_id))


def key_file(settings: Settings) -> Path | None:
    """The path of the key file; None: the keys come from the environment."""
    if settings.token_keys is not None or settings.database_url is not None:
        return None
    return settings.home / KEY_FILE


def read_key_file(path: Path) -> FileKeyring:
    """The keys of the file, the current one first. Raises ConfigurationError."""
    keyring = _parse(path.read_text(), str(path))
    return FileKeyring(keyring.current_id, keyring.keys, path)


def put_first(path: Path, entry: str) -> None:
    """Make `entry` (`key_id:base64`) the current key of the file; the others stay behind it."""
    with _entries(path) as entries:
        entries.insert(0, entry)


def put_last(path: Path, entry: str) -> None:
    """Let the file open what is sealed for one more key."""
    with _entries(path) as entries:
        entries.append(entry)


def drop(path: Path, key_id: str) -> str:
    """Take a key out of the file; returns its entry. Raises KeyError if it is not there."""
    with _entries(path) as entries:
        by_id = {entry.partition(":")[0]: entry for entry in entries}
        dropped = by_id.pop(key_id)
        entries[:] = by_id.values()
    return dropped


@contextmanager
def _entries(path: Path) -> Iterator[list[str]]:
    """The entries of the file, to be changed; written whole or not at all, one writer at a time."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        entries = [entry for entry in path.read_text().replace(",", "\n").split("\n") if entry]
        yield entries
        draft = _write_draft(path, entries)
        os.replace(draft, path)
        os.fsync(directory)
    finally:
        os.close(directory)


def _create(path: Path) -> None:
    """Write a new key that appears whole or not at all; of several processes the first wins."""
    draft = _write_draft(path, [new_key()[1]])
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _write_draft(path: Path, entries: Sequence[str]) -> Path:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{entry}\n" for entry in entries))
        file.flush()
        os.fsync(file.fileno())
    return draft


def _parse(text: str, source: str) -> Keyring:
    try:
        return Keyring.parse(text)
    except BadKeys as error:
        raise ConfigurationError(f"{source}: {error}") from None


@dataclass(slots=True)
class Rotation:
    """The result of a rotation: tokens sealed again, and unopened tokens by reason."""

    resealed: int = 0
    unopened: Counter[str] = field(default_factory=Counter)


def tokens_by_key(engine: Engine) -> dict[str, int]:
    """How many users' tokens each key id opens."""
    with engine.connect() as conn:
        return count_by_key(conn)


def rotate(
    engine: Engine,
    keyring: Keyring,
    advance: Callable[[int], None] = lambda done: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Rotation:
    """Seal for `keyring.current_id` all tokens that are sealed for another key.

    Tokens that cannot be opened stay as they are and are counted. `advance` gets how many are
    done. Raises SQLAlchemyError.
    """
    rotation = Rotation()
    for _ in range(BUSY_ROUNDS):
        rotation.unopened.clear()
        _one_round(engine, keyring, rotation, advance)
        tokens = tokens_by_key(engine)
        if sum(tokens.values()) - tokens.get(keyring.current_id, 0) <= rotation.unopened.total():
            break
        sleep(BUSY_SECONDS)
    return rotation


def _one_round(
    engine: Engine, keyring: Keyring, rotation: Rotation, advance: Callable[[int], None]
) -> None:
    after = ""
    while True:
        with engine.begin() as conn:
            rows = lock_other_keys(conn, keyring.current_id, after, BATCH)
            anew = [fresh for row in rows if (fresh := _reseal(keyring, row, rotation))]
            replace_sealed(conn, anew)
        rotation.resealed += len(anew)
        advance(rotation.resealed)
        if not rows:
            return
        after = rows[-1].user_id


def _reseal(keyring: Keyring, row: SealedRow, rotation: Rotation) -> SealedRow | None:
    """The row under the current key; None, and counted, if it does not open for its user."""

    def again(sealed: bytes) -> bytes:
        plain = keyring.open(row.key_id, sealed, row.user_id)
        return seal(keyring.public_key(keyring.current_id), row.user_id, plain)

    try:
        access = row.sealed_access_token
        return SealedRow(
            row.user_id,
            keyring.current_id,
            again(row.sealed_refresh_token),
            again(access) if access is not None else None,
        )
    except SealError as error:
        rotation.unopened[str(error)] += 1
        return None
