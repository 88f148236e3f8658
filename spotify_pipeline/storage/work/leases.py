"""The lease per user: a worker holds it while it syncs the user, and it fences every write.

A lease lasts LEASE_SECONDS and is renewed while the work goes on, so a dead worker blocks a user
for at most that long, and a worker that was suspended for longer can no longer write. All instants
are the database's `now()`: the clocks of workers need not agree.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    and_,
    func,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of
from spotify_pipeline.storage.postgres.locks import lock_or_skip

LEASE_SECONDS = 30
RENEW_SECONDS = 10
RETRY_SECONDS = 0.5

log = logging.getLogger(__name__)


def take(conn: Connection, user_ids: Iterable[str], lease_id: UUID) -> set[str]:
    """Take or renew the lease of each user that is free or already ours; return those we hold."""
    state = t.sync_state
    mine = (
        select(state.c.user_id)
        .where(
            state.c.user_id.in_(list(user_ids)),
            or_(
                state.c.lease_until.is_(None),
                not_(_is_held()),
                state.c.lease_id == lease_id,
            ),
        )
        .order_by(state.c.user_id)
        # Two workers that want overlapping sets must not wait for each other (deadlock).
        .with_for_update(skip_locked=True)
    )
    taken = conn.execute(
        update(state)
        .where(state.c.user_id.in_(mine.scalar_subquery()))
        .values(lease_id=lease_id, lease_until=func.now() + timedelta(seconds=LEASE_SECONDS))
        .returning(state.c.user_id)
    )
    return {row.user_id for row in taken}


def _is_held() -> ColumnElement[bool]:
    """The lease has not ended, and ends no later than a lease taken now would.

    A wrong clock or a restore may leave a later end, which would keep the user busy until then.
    Compared with the clock: `now()` of a transaction is older than leases others took since.
    """
    until = t.sync_state.c.lease_until
    longest = func.clock_timestamp() + timedelta(seconds=LEASE_SECONDS)
    return and_(until >= func.now(), until <= longest)


def existing_users(conn: Connection, user_ids: Iterable[str]) -> set[str]:
    """The users among these that exist."""
    state = t.sync_state
    return set(conn.scalars(select(state.c.user_id).where(any_of(state.c.user_id, user_ids))))


def leased_users(conn: Connection, user_ids: Iterable[str]) -> set[str]:
    """The users among these whom some worker is syncing now."""
    state = t.sync_state
    return set(
        conn.scalars(select(state.c.user_id).where(state.c.user_id.in_(user_ids), _is_held()))
    )


def release(conn: Connection, lease_id: UUID, user_ids: Iterable[str] | None = None) -> None:
    """Release these users (None: all) as far as they are held under this lease.

    A row that another session keeps locked is left out: its lease ends by itself.
    """
    state = t.sync_state
    mine = select(state.c.user_id).where(state.c.lease_id == lease_id)
    if user_ids is not None:
        mine = mine.where(state.c.user_id.in_(list(user_ids)))
    mine = mine.order_by(state.c.user_id).with_for_update(skip_locked=True)
    conn.execute(
        update(state)
        .where(state.c.user_id.in_(mine.scalar_subquery()))
        .values(lease_id=None, lease_until=None)
    )


class Held(NamedTuple):
    """Three sets of users: existing ones, those whose lease is ours, those locked by others."""

    existing: set[str]
    ours: set[str]
    blocked: set[str]


def lock_held(conn: Connection, user_ids: Iterable[str], lease_id: UUID) -> Held:
    """Lock these users until the transaction ends, and find those whose lease is ours.

    Every write of a sync begins with this and may write the users of `ours` only: a forgotten user
    is in no set, one whose lease was lost only in `existing`, one whom another session keeps locked
    in `existing` and `blocked`. The lease of a locked user cannot be taken.
    """
    u, state = t.users, t.sync_state
    wanted = list(user_ids)
    users = select(u.c.user_id).where(u.c.user_id.in_(wanted)).order_by(u.c.user_id)
    is_ours = and_(state.c.lease_id == lease_id, state.c.lease_until > func.now())
    states = select(state.c.user_id, is_ours.label("is_ours")).order_by(state.c.user_id)

    def lock(skip: bool) -> tuple[set[str], dict[str, bool]]:
        existing = set(conn.scalars(users.with_for_update(key_share=True, skip_locked=skip)))
        locking = states.where(state.c.user_id.in_(existing)).with_for_update(skip_locked=skip)
        return existing, {row.user_id: bool(row.is_ours) for row in conn.execute(locking)}

    (existing, held), skipped = lock_or_skip(conn, lock)
    if skipped:
        existing = set(conn.scalars(users))
    ours = {user_id for user_id, is_ours in held.items() if is_ours}
    return Held(existing, ours, existing - held.keys() if skipped else set())


class Lease:
    """The users that this worker holds, renewed in the background until the block ends."""

    def __init__(self, engine: Engine, lease_id: UUID, held: set[str]) -> None:
        self.engine = engine
        self.lease_id = lease_id
        self.held = held
        self._stop = threading.Event()
        # Otherwise a renewal could take back a user who was just released (race).
        self._one_at_a_time = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                with self._one_at_a_time, self.engine.begin() as conn:
                    take(conn, self.held, self.lease_id)
            except SQLAlchemyError as error:
                # The next round may still be in time; if not, the fence refuses our writes.
                log.warning("Could not renew the lease: %s", type(error).__name__)

    def release(self, user_ids: Iterable[str]) -> None:
        """Release these users before the others."""
        with self._one_at_a_time:
            self.held = self.held - set(user_ids)
            self._release(user_ids)

    def _release(self, user_ids: Iterable[str] | None = None) -> None:
        try:
            with self.engine.begin() as conn:
                release(conn, self.lease_id, user_ids)
        except SQLAlchemyError as error:
            # It ends by itself.
            log.warning("Could not release the lease: %s", type(error).__name__)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._release()


@contextmanager
def leased(
    engine: Engine,
    user_ids: Iterable[str],
    *,
    wait_seconds: float = 0,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Lease]:
    """Hold the lease of as many of these users as possible within `wait_seconds`."""
    wanted = set(user_ids)
    lease_id = uuid4()
    deadline = monotonic() + wait_seconds
    while True:
        with engine.begin() as conn:
            held = take(conn, wanted, lease_id)
            busy = existing_users(conn, wanted - held) if wanted - held else set()
        if not busy or monotonic() >= deadline:
            break
        # Keeps only the users before the first busy one, in the order of ids: otherwise two workers
        # that hold a part each wait a minute for each other's (deadlock). In its own transaction: a
        # second UPDATE of the rows would lock their users (deadlock).
        with engine.begin() as conn:
            release(conn, lease_id, {user_id for user_id in held if user_id > min(busy)})
        sleep(RETRY_SECONDS)
    with Lease(engine, lease_id, held) as lease:
        yield lease
