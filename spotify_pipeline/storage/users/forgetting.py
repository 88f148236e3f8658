"""Tombstones: forgotten users, until Dagster's storage is purged of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, update

from spotify_pipeline.storage import tables as t

AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A forgotten user. Instants and ages are by the database's clock."""

    id: int
    user_id: str
    forgotten_at: datetime
    age: timedelta
    # When the same id was registered again; None: it was not.
    registered_again_at: datetime | None


def read_tombstones(conn: Connection) -> list[Tombstone]:
    """At most AT_ONCE random tombstones of users whom Dagster's storage may still name.

    Random, so that each has its turn; limited, so that a tick ends soon after a mass deletion.
    """
    f, u = t.forgotten, t.users
    rows = conn.execute(
        select(f.c.id, f.c.user_id, f.c.forgotten_at, func.now() - f.c.forgotten_at, u.c.created_at)
        .join_from(f, u, u.c.user_id == f.c.user_id, isouter=True)
        .where(f.c.user_id.is_not(None))
        .order_by(func.random())
        .limit(AT_ONCE)
    )
    return [Tombstone(*row) for row in rows]


def names_on_tombstones(conn: Connection) -> set[str]:
    """Forgotten users whom Dagster's storage may still name."""
    f = t.forgotten
    return set(conn.scalars(select(f.c.user_id).where(f.c.user_id.is_not(None))))


def note_traces(
    conn: Connection, tombstone: Tombstone, traces: Mapping[str, int], *, last: bool
) -> None:
    """Add the counts of deleted traces; the `last` round deletes the user id from the tombstone."""
    f = t.forgotten
    already = conn.scalar(select(f.c.traces).where(f.c.id == tombstone.id).with_for_update())
    counts = {kind: traces.get(kind, 0) + (already or {}).get(kind, 0) for kind in traces}
    conn.execute(
        update(f)
        .where(f.c.id == tombstone.id, f.c.user_id.is_not(None))
        .values(
            traces={**(already or {}), **counts},
            **({"user_id": None, "scrubbed_at": func.now()} if last else {}),
        )
    )
