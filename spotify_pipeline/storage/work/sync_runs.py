"""Runs of the job sync_users: users, outcomes, what each chunk cost; and the state of each user."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Case,
    Connection,
    DateTime,
    Text,
    bindparam,
    case,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of, as_row, bulk_rows
from spotify_pipeline.storage.postgres.locks import lock_existence, lock_or_skip
from spotify_pipeline.storage.users.queries import SELECTIONS

CHUNK_USERS = 125


@dataclass(frozen=True, slots=True)
class RunUser:
    """One user's outcome in a run; None until there is one."""

    user_id: str
    outcome: str | None
    error_code: str | None
    new_plays: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunTotals:
    """A run's users by outcome and by error code, their new plays and their cost."""

    by_outcome: dict[str, int]
    by_code: dict[str, int]
    new_plays: int
    api_calls: int
    throttled_seconds: float
    slowest_chunk: int | None
    slowest_chunk_seconds: float


def enlist(
    conn: Connection, run_id: str, user_ids: Iterable[str], chunk_size: int = CHUNK_USERS
) -> None:
    """Add users to the run, in the order of their ids; see `_enlist`."""
    _enlist(conn, run_id, any_of(t.users.c.user_id, user_ids), chunk_size)


def enlist_selection(
    conn: Connection, run_id: str, selection: str, now: datetime, chunk_size: int
) -> None:
    """Add the users of a selection to the run, those who have waited longest first.

    So a run that is ended by its time limit, or by a limit of calls, leaves out those whom the next
    run begins with.
    """
    # Top lists are what nightly and weekly runs fetch and polls do not.
    since = "next_due_at" if selection == "due" else "tops_fetched_at"
    _enlist(conn, run_id, SELECTIONS[selection](now), chunk_size, since)


def _enlist(
    conn: Connection,
    run_id: str,
    who: ColumnElement[bool],
    chunk_size: int,
    since: str | None = None,
) -> None:
    """Add the users of the condition to the run, in chunks of at most `chunk_size`; idempotent.

    In the order of `since`, a column of sync_state, NULL first. Users who are enlisted already keep
    their chunk. Leaves out users whom another session keeps locked.
    """
    u, r = t.users.c, t.sync_run_users
    s = t.sync_state.alias()  # the condition has a sync_state of its own
    enlisted = select(r.c.user_id).where(r.c.run_id == run_id, r.c.user_id == u.user_id).exists()
    # Locked first, in the order of all locks: the foreign key alone would wait for a locked user.
    users = (
        select(u.user_id, (s.c[since] if since else null()).label("since"))
        .join_from(t.users, s, s.c.user_id == u.user_id)
        .where(who, ~enlisted)
        .order_by(u.user_id)
    )
    next_chunk = (
        select(func.coalesce(func.max(r.c.chunk) + 1, 0))
        .where(r.c.run_id == run_id)
        .scalar_subquery()
    )

    def insert_locked(skip_locked: bool) -> None:
        c = users.with_for_update(
            read=True, key_share=True, of=t.users, skip_locked=skip_locked
        ).subquery()
        place = func.row_number().over(order_by=[c.c.since.nulls_first(), c.c.user_id]) - 1
        rows = select(literal(run_id), c.c.user_id, next_chunk + place // chunk_size)
        added = insert(r).from_select(["run_id", "user_id", "chunk"], rows)
        conn.execute(added.on_conflict_do_nothing())

    lock_or_skip(conn, insert_locked)


def count_chunks(conn: Connection, run_id: str) -> int:
    """How many chunks the run has; they are numbered from 0."""
    r = t.sync_run_users
    last = conn.scalar(select(func.max(r.c.chunk)).where(r.c.run_id == run_id))
    return 0 if last is None else int(last) + 1


def enlisted_again(
    conn: Connection, run_id: str, earlier_run_ids: Sequence[str], chunk_size: int
) -> bool:
    """Whether the run has users; if not, it gets those of the first earlier run that has some."""
    r = t.sync_run_users
    for source in (run_id, *earlier_run_ids):
        of_source = select(r.c.user_id).where(r.c.run_id == source)
        if conn.execute(of_source.limit(1)).first():
            _enlist(conn, run_id, t.users.c.user_id.in_(of_source), chunk_size)
            return True
    return False


def begin_chunk(conn: Connection, run_id: str, chunk: int) -> int:
    """Record that a process begins the chunk; return the number of tries, this one included."""
    c = t.sync_run_chunks
    begun = (
        insert(c)
        .values(run_id=run_id, chunk=chunk, tries=1)
        .on_conflict_do_update(
            index_elements=[c.c.run_id, c.c.chunk],
            set_={"tries": c.c.tries + 1, "started_at": func.now()},
        )
        .returning(c.c.tries)
    )
    return int(conn.execute(begun).scalar_one())


def end_chunk(
    conn: Connection,
    run_id: str,
    chunk: int,
    *,
    seconds: float,
    api_calls: int,
    throttled_seconds: float,
) -> None:
    """Record the costs of the chunk: wall time, calls to Spotify, how long those were throttled."""
    c = t.sync_run_chunks
    conn.execute(
        update(c)
        .where(c.c.run_id == run_id, c.c.chunk == chunk)
        .values(seconds=seconds, api_calls=api_calls, throttled_seconds=throttled_seconds)
    )


def users_left(conn: Connection, run_id: str, chunk: int) -> list[str]:
    """The users of one chunk who have no outcome yet, or were skipped as busy; sorted."""
    r = t.sync_run_users
    return list(
        conn.scalars(
            select(r.c.user_id)
            .where(r.c.run_id == run_id, r.c.chunk == chunk, _is_open())
            .order_by(r.c.user_id)
        )
    )


def _is_open() -> ColumnElement[bool]:
    outcome = t.sync_run_users.c.outcome
    return or_(outcome.is_(None), outcome == "skipped")


def save_outcomes(conn: Connection, run_id: str, outcomes: Sequence[RunUser]) -> None:
    """Write the outcomes of users.

    Leaves out users who were forgotten meanwhile or whom another session keeps locked. An outcome
    that is already there stays: two processes may work on one chunk when the first was taken for
    dead.
    """
    r = t.sync_run_users
    existing = lock_existence(conn, [outcome.user_id for outcome in outcomes])
    if existing:
        conn.execute(
            update(r).where(r.c.run_id == run_id, r.c.user_id == bindparam("of_user"), _is_open()),
            [
                {
                    "of_user": outcome.user_id,
                    "outcome": outcome.outcome,
                    "error_code": outcome.error_code,
                    "new_plays": outcome.new_plays,
                    "seconds": outcome.seconds,
                }
                for outcome in outcomes
                if outcome.user_id in existing
            ],
        )


def totals(conn: Connection, run_id: str) -> RunTotals:
    """The run in numbers, without names."""
    r = t.sync_run_users
    rows = conn.execute(
        select(r.c.outcome, r.c.error_code, func.count(), func.coalesce(func.sum(r.c.new_plays), 0))
        .where(r.c.run_id == run_id)
        .group_by(r.c.outcome, r.c.error_code)
    ).all()
    by_outcome: Counter[str] = Counter()
    by_code: Counter[str] = Counter()
    for outcome, code, count, _ in rows:
        by_outcome[outcome or "unknown"] += count
        if code:
            by_code[code] += count
    c = t.sync_run_chunks
    chunks = conn.execute(
        select(c.c.chunk, c.c.seconds, c.c.api_calls, c.c.throttled_seconds)
        .where(c.c.run_id == run_id, c.c.seconds.is_not(None))
        .order_by(c.c.seconds.desc())
    ).all()
    return RunTotals(
        by_outcome=by_outcome,
        by_code=by_code,
        new_plays=sum(int(row[3]) for row in rows),
        api_calls=sum(row.api_calls for row in chunks),
        throttled_seconds=sum(row.throttled_seconds for row in chunks),
        slowest_chunk=chunks[0].chunk if chunks else None,
        slowest_chunk_seconds=chunks[0].seconds if chunks else 0.0,
    )


def run_users(conn: Connection, run_id: str) -> list[RunUser]:
    """Every user of the run with the outcome so far, by user_id."""
    r = t.sync_run_users
    rows = conn.execute(
        select(
            r.c.user_id,
            r.c.outcome,
            r.c.error_code,
            func.coalesce(r.c.new_plays, 0),
            func.coalesce(r.c.seconds, 0.0),
        )
        .where(r.c.run_id == run_id)
        .order_by(r.c.user_id)
    )
    return [RunUser(*row) for row in rows]


def count_done(conn: Connection, run_id: str) -> int:
    """How many users of the run have an outcome."""
    r = t.sync_run_users
    done = select(func.count()).where(r.c.run_id == run_id, r.c.outcome.is_not(None))
    return int(conn.scalar(done) or 0)


@dataclass(frozen=True, slots=True)
class SyncResult:
    """The changes of a sync to a user's sync_state. Instants are of the facts clock."""

    user_id: str
    synced_at: datetime
    # Whether anything was brought up to date, and whether everything selected was.
    anything_done: bool
    everything_done: bool
    plays_fetched: bool
    tops_fetched: bool
    # None: plays were not fetched, so it stays.
    next_due_at: datetime | None
    # No call was made because no user's calls go out now: not counted as a failure.
    is_held_back: bool = False
    error_code: ErrorCode | None = None
    error_message: str | None = None


_TYPES: dict[str, TypeEngine[Any]] = {
    "user_id": Text(),
    "synced_at": DateTime(timezone=True),
    "anything_done": Boolean(),
    "everything_done": Boolean(),
    "plays_fetched": Boolean(),
    "tops_fetched": Boolean(),
    "is_held_back": Boolean(),
    "next_due_at": DateTime(timezone=True),
    "error_code": Text(),
    "error_message": Text(),
}


def save_results(conn: Connection, results: Sequence[SyncResult]) -> None:
    """Write each user's state; what a sync did not do keeps its earlier instant."""
    if not results:
        return
    s = t.sync_state
    r = bulk_rows([as_row(result) for result in results], _TYPES, "results").c

    def at_if(done: ColumnElement[bool], before: ColumnElement[datetime]) -> Case[datetime]:
        return case((done, r.synced_at), else_=before)

    conn.execute(
        update(s)
        .where(s.c.user_id == r.user_id)
        .values(
            last_synced_at=at_if(r.anything_done, s.c.last_synced_at),
            last_success_at=at_if(r.everything_done, s.c.last_success_at),
            plays_fetched_at=at_if(r.plays_fetched, s.c.plays_fetched_at),
            tops_fetched_at=at_if(r.tops_fetched, s.c.tops_fetched_at),
            consecutive_failures=case(
                (r.everything_done, 0),
                (r.is_held_back, s.c.consecutive_failures),
                else_=s.c.consecutive_failures + 1,
            ),
            last_error_code=r.error_code,
            last_error_message=r.error_message,
            next_due_at=func.coalesce(r.next_due_at, s.c.next_due_at),
            recorded_at=func.now(),
        )
    )
