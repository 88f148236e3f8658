"""The published key and the sealed tokens by key. Plain tokens never come here."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.storage import tables as t


@dataclass(frozen=True, slots=True)
class SealedRow:
    """The sealed tokens of a user, both for the key `key_id`."""

    user_id: str
    key_id: str
    sealed_refresh_token: bytes = field(repr=False)
    sealed_access_token: bytes | None = field(repr=False)


def set_sealing_key(conn: Connection, key_id: str, public_key: bytes) -> None:
    """Publish the key that apps seal with. Writes nothing if it is published already."""
    k = t.sealing_key
    current = {"key_id": key_id, "public_key": public_key}
    published = conn.execute(select(k.c.key_id, k.c.public_key)).one_or_none()
    if published is None or published._asdict() != current:
        upsert = insert(k).values(current)
        conn.execute(upsert.on_conflict_do_update(index_elements=[k.c.singleton], set_=current))


def count_by_key(conn: Connection) -> dict[str, int]:
    """How many users' tokens are sealed for each key."""
    k = t.user_tokens
    rows = conn.execute(select(k.c.key_id, func.count()).group_by(k.c.key_id).order_by(k.c.key_id))
    return {key_id: tokens for key_id, tokens in rows}


def lock_tokens(conn: Connection, user_id: str) -> None:
    """Lock this user's tokens against a key rotation until the transaction ends."""
    k = t.user_tokens
    conn.execute(select(k.c.user_id).where(k.c.user_id == user_id).with_for_update(key_share=True))


def lock_other_keys(conn: Connection, current: str, after: str, limit: int) -> list[SealedRow]:
    """The next users in order whose tokens are sealed for another key, locked.

    Skips rows that another session has locked: waiting for them while holding others can deadlock.
    """
    k = t.user_tokens
    rows = conn.execute(
        select(k.c.user_id, k.c.key_id, k.c.sealed_refresh_token, k.c.sealed_access_token)
        .where(k.c.key_id != current, k.c.user_id > after)
        .order_by(k.c.user_id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return [SealedRow(*row) for row in rows]


def replace_sealed(conn: Connection, rows: Sequence[SealedRow]) -> None:
    """Write the newly sealed tokens of rows that are locked."""
    if not rows:
        return
    k = t.user_tokens
    conn.execute(
        update(k).where(k.c.user_id == bindparam("of_user")),
        [
            {
                "of_user": row.user_id,
                "key_id": row.key_id,
                "sealed_refresh_token": row.sealed_refresh_token,
                "sealed_access_token": row.sealed_access_token,
            }
            for row in rows
        ],
    )
