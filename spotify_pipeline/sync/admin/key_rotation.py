"""Seals every stored token anew for the current key, in batches, while syncs go on.

What is left to do is in the rows themselves, so a rotation that was killed goes on where it was.
A row is locked while it is sealed anew: a sync that refreshes at this moment waits for some
milliseconds and then finds its own token under another seal (see sync.tokens).
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from spotify_pipeline.domain.sealing import Keyring, SealError, seal
from spotify_pipeline.storage.postgres.types import Engine
from spotify_pipeline.storage.users.key_rotation import (
    SealedRow,
    count_by_key,
    lock_other_keys,
    replace_sealed,
)

BATCH = 200
# A row that others write all the time is free again in milliseconds.
BUSY_SECONDS = 0.2
BUSY_ROUNDS = 150


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
