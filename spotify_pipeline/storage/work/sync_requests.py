"""The queue of sync requests, from `queued` to `succeeded` or `failed`.

The trigger in storage/sql/requests.sql accepts or refuses a request; this module serves accepted
ones. The row is the truth, Dagster is the executor. States of a row:

    queued, no key ──assign──► queued, key ──start──► running ──finish──► succeeded or failed
          ▲                         │                    │
          └──────── put_back, retry ┴────────────────────┘

Every change names the dispatch key of the row (fencing): a late one for an older key does nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from uuid import uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    Update,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    true,
    update,
)

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of
from spotify_pipeline.storage.postgres.locks import lock_or_skip

OPEN = ("queued", "running")
BATCH = "batch-"

# More requests than this share runs: a run is a process that takes seconds of CPU.
MOST_SINGLE_RUNS = 4
# Requests that share a run. A flood gets several runs, one after the other, so that later requests
# need not wait for all of it. Beyond so many runs they get longer.
BATCH_REQUESTS = 500
MOST_BATCHES = 20
# The third transient failure is final. Back-off: 10 s after the first, 40 s after the second; our
# HTTP client has already retried within the attempt.
MOST_FAILURES = 3
FIRST_PAUSE_SECONDS = 10
PAUSE_GROWTH = 4
LONGEST_PAUSE = timedelta(seconds=FIRST_PAUSE_SECONDS * PAUSE_GROWTH ** (MOST_FAILURES - 2))
# A run of the job sync_users may delay a request for so long; more means that no sensor is running.
PATIENCE = timedelta(minutes=5)

_r = t.sync_requests

Failure = tuple[ErrorCode, str]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """An open request and the key under which exactly one run is asked for."""

    dispatch_key: str
    user_id: str
    status: str
    run_id: str | None


@dataclass(frozen=True, slots=True)
class Retried:
    """How many failed attempts were queued again, and how many requests failed for good."""

    again: int
    failed: int


def _waiting() -> ColumnElement[bool]:
    return and_(
        _r.c.status == "queued",
        _r.c.dispatch_key.is_(None),
        or_(
            _r.c.not_before.is_(None),
            _r.c.not_before <= func.now(),
            # Longer than any back-off: a wrong clock wrote it.
            _r.c.not_before > func.clock_timestamp() + LONGEST_PAUSE,
        ),
    )


def unserved() -> Select[tuple[str, datetime]]:
    """Requests that have waited longer than PATIENCE for a run to begin: user_id, and since when.

    The back-off of a request and a block of the developer app do not count as waiting.
    """
    b = t.api_budget
    # greatest() ignores NULL.
    since = func.greatest(_r.c.requested_at, _r.c.not_before, b.c.blocked_until, b.c.day_full_until)
    return (
        select(_r.c.user_id, since.label("since"))
        .join_from(_r, b, true())
        .where(_r.c.status == "queued", since < func.now() - PATIENCE)
    )


def any_waiting(conn: Connection) -> bool:
    """Whether a request waits for a dispatch key."""
    return bool(conn.scalar(select(exists().where(_waiting()))))


def assign(conn: Connection) -> list[Dispatch]:
    """Give each waiting request its dispatch key and return them, oldest first.

    A key each, `request-{id}-{attempt}-{uuid}`; when they are many, a `batch-{uuid}` for up to
    BATCH_REQUESTS. The UUID keeps a key from ever coming again: a restored database counts ids and
    attempts anew, while Dagster still has the runs of the first ones and starts no second run for a
    key. A flood from one `requested_by` delays the few requests of another as little as may be:
    they get keys of their own, or take turns with it in the first batches.
    """
    waiting = conn.execute(
        select(_r.c.requested_by, _r.c.id)
        .where(_waiting())
        .order_by(_r.c.id)
        .with_for_update(skip_locked=True)
    )
    by_asker: dict[str, list[int]] = {}
    for requested_by, request_id in waiting:
        by_asker.setdefault(requested_by, []).append(request_id)
    alone = [i for ids in by_asker.values() if len(ids) <= MOST_SINGLE_RUNS for i in ids]
    if len(alone) > MOST_SINGLE_RUNS:
        alone = []
    turns = chain.from_iterable(zip_longest(*by_asker.values()))
    together = [i for i in turns if i is not None and i not in alone]
    size = max(BATCH_REQUESTS, -(-len(together) // MOST_BATCHES))
    batches = [together[start : start + size] for start in range(0, len(together), size)]
    attempt = _r.c.attempts + 1
    own_key = func.concat_ws(
        "-", "request", cast(_r.c.id, Text), cast(attempt, Text), func.gen_random_uuid()
    )
    keys = [(alone, own_key), *((ids, literal(f"{BATCH}{uuid4()}")) for ids in batches)]
    for ids, key in keys:
        conn.execute(
            update(_r)
            .where(any_of(_r.c.id, ids))
            .values(attempts=attempt, dispatch_key=key, not_before=None)
        )
    return _dispatches(conn, any_of(_r.c.id, [*alone, *together]))


def is_batch(dispatch_key: str) -> bool:
    """Whether the key stands for many requests, in one run of the job sync_users."""
    return dispatch_key.startswith(BATCH)


def dispatched(conn: Connection) -> list[Dispatch]:
    """All open requests that have a key, oldest first: also those assigned before a crash."""
    return _dispatches(conn, and_(_r.c.status.in_(OPEN), _r.c.dispatch_key.is_not(None)))


def _dispatches(conn: Connection, which: ColumnElement[bool]) -> list[Dispatch]:
    columns = (_r.c.dispatch_key, _r.c.user_id, _r.c.status, _r.c.run_id)
    return [Dispatch(*row) for row in conn.execute(select(*columns).where(which).order_by(_r.c.id))]


def start(
    conn: Connection,
    dispatch_key: str,
    run_id: str,
    user_ids: Collection[str] | None = None,
) -> list[str]:
    """Mark the requests of the run (of these users) running; return their users.

    Returns [] if the requests were finished, or dispatched to another run, meanwhile.
    """
    started = conn.scalars(
        _open(conn, dispatch_key, user_ids)
        .values(
            status="running", run_id=run_id, started_at=func.coalesce(_r.c.started_at, func.now())
        )
        .returning(_r.c.user_id)
    )
    return sorted(started)


def finish(
    conn: Connection,
    dispatch_key: str,
    failure: Failure | None,
    user_ids: Collection[str] | None = None,
) -> int:
    """Close open requests as failed, or as succeeded if `failure` is None; return how many."""
    code, message = failure or (None, None)
    closed = conn.execute(
        _open(conn, dispatch_key, user_ids)
        .values(
            status="failed" if failure else "succeeded",
            finished_at=func.now(),
            error_code=code,
            error_message=message,
        )
        .returning(_r.c.id)
    )
    return len(closed.all())


def put_back(conn: Connection, dispatch_key: str, user_ids: Collection[str]) -> None:
    """Queue these users' requests again, as if no run had been asked for."""
    conn.execute(
        _open(conn, dispatch_key, user_ids).values(
            status="queued", dispatch_key=None, run_id=None, started_at=None
        )
    )


def retry(
    conn: Connection,
    dispatch_key: str,
    failure: Failure,
    user_ids: Collection[str] | None = None,
) -> Retried:
    """Queue requests again after a transient failure, with back-off; the third failure is final."""
    code, message = failure
    failures = _r.c.failures + 1
    final = failures >= MOST_FAILURES

    def either(if_final: object, else_: object) -> ColumnElement[object]:
        return case((final, if_final), else_=else_)

    seconds = FIRST_PAUSE_SECONDS * func.power(PAUSE_GROWTH, _r.c.failures)
    pause = func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    statuses = conn.scalars(
        _open(conn, dispatch_key, user_ids)
        .values(
            failures=failures,
            status=either("failed", "queued"),
            finished_at=either(func.now(), null()),
            error_code=either(code, null()),
            error_message=either(message, null()),
            dispatch_key=either(_r.c.dispatch_key, null()),
            run_id=either(_r.c.run_id, null()),
            started_at=either(_r.c.started_at, null()),
            not_before=either(null(), func.now() + pause),
        )
        .returning(_r.c.status)
    ).all()
    return Retried(statuses.count("queued"), statuses.count("failed"))


def close_open(
    conn: Connection,
    dispatch_key: str,
    code: ErrorCode,
    user_ids: Collection[str] | None = None,
) -> int:
    """Fail the requests that are still open under this key; return how many."""
    return finish(conn, dispatch_key, (code, WHAT_TO_DO[code]), user_ids)


def synced_by_others(conn: Connection, dispatch_key: str) -> list[str]:
    """Users with an open request under this key whose latest sync already fulfilled it.

    It recorded its success after the request was made, by the database's clock, and fetched plays
    and all top lists: the facts clock stamps them with one instant only if one sync did both.
    """
    s = t.sync_state
    done = (
        select(_r.c.user_id)
        .join(s, s.c.user_id == _r.c.user_id)
        .where(
            _r.c.dispatch_key == dispatch_key,
            _r.c.status.in_(OPEN),
            s.c.recorded_at >= _r.c.requested_at,
            s.c.last_error_code.is_(None),
            s.c.last_success_at == s.c.plays_fetched_at,
            s.c.last_success_at == s.c.tops_fetched_at,
        )
        .order_by(_r.c.user_id)
    )
    return list(conn.scalars(done))


def _open(conn: Connection, dispatch_key: str, user_ids: Collection[str] | None = None) -> Update:
    """An UPDATE of the open requests of this key (of these users), after locking request_locks.

    Leaves out users whom another session keeps locked: the sensor continues their requests later.
    """
    open_here = and_(_r.c.dispatch_key == dispatch_key, _r.c.status.in_(OPEN))
    if user_ids is not None:
        open_here &= any_of(_r.c.user_id, user_ids)
    k = t.request_locks
    asking = select(_r.c.user_id).where(open_here)
    locks = select(k.c.user_id).where(k.c.user_id.in_(asking)).order_by(k.c.user_id)

    def lock(skip_locked: bool) -> set[str]:
        return set(conn.scalars(locks.with_for_update(key_share=True, skip_locked=skip_locked)))

    locked, skipped = lock_or_skip(conn, lock)
    blocked = set(conn.scalars(locks)) - locked if skipped else set()
    return update(_r).where(open_here, _r.c.user_id.not_in(blocked))
