"""A run over many users: who belongs to it, how it went for each, what each chunk cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ARRAY, Connection, Text, bindparam, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.locks import lock_existence


@dataclass(frozen=True, slots=True)
class RunUser:
    """One user's outcome in a run; None while it is not known."""

    user_id: str
    outcome: str | None
    error_code: str | None
    new_plays: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunkCosts:
    """What a chunk took: wall time, calls to Spotify, and how long those were held back."""

    seconds: float
    api_calls: int
    throttled_seconds: float


@dataclass(frozen=True, slots=True)
class RunTotals:
    """A run's users by outcome and by error code, what they brought and what they cost."""

    by_outcome: dict[str, int]
    by_code: dict[str, int]
    new_plays: int
    api_calls: int
    throttled_seconds: float
    slowest_chunk: int | None
    slowest_chunk_seconds: float


def enlist(conn: Connection, run_id: str, user_ids: Sequence[str]) -> None:
    """Note who belongs to the run, except who was just forgotten or is locked by another session.

    Repeating changes nothing.
    """
    there = literal(sorted(lock_existence(conn, user_ids)), ARRAY(Text))
    conn.execute(
        insert(t.sync_run_users)
        # One parameter: a statement takes 65,535, and a run may be of more users.
        .from_select(["run_id", "user_id"], select(literal(run_id), func.unnest(there)))
        .on_conflict_do_nothing()
    )


def cut_chunks(conn: Connection, run_id: str, size: int) -> int:
    """Number the run's users into chunks of at most `size`, from 0; return how many chunks."""
    r = t.sync_run_users
    numbered = (
        select(r.c.user_id, ((func.row_number().over(order_by=r.c.user_id) - 1) // size).label("n"))
        .where(r.c.run_id == run_id)
        .subquery()
    )
    conn.execute(
        update(r)
        .where(r.c.run_id == run_id, r.c.user_id == numbered.c.user_id)
        .values(chunk=numbered.c.n)
    )
    last = conn.scalar(select(func.max(r.c.chunk)).where(r.c.run_id == run_id))
    return 0 if last is None else int(last) + 1


def enlisted_again(conn: Connection, run_id: str, earlier_run_ids: Sequence[str]) -> bool:
    """Whether the run has users; if not, it gets those of the first earlier run that has some."""
    r = t.sync_run_users
    for source in (run_id, *earlier_run_ids):
        if user_ids := conn.scalars(select(r.c.user_id).where(r.c.run_id == source)).all():
            enlist(conn, run_id, user_ids)
            return True
    return False


def begin_chunk(conn: Connection, run_id: str, chunk: int) -> int:
    """Note that a process begins the chunk; return how often one has, this time included."""
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


def end_chunk(conn: Connection, run_id: str, chunk: int, costs: ChunkCosts) -> None:
    """Note what the chunk took."""
    c = t.sync_run_chunks
    conn.execute(
        update(c)
        .where(c.c.run_id == run_id, c.c.chunk == chunk)
        .values(
            seconds=costs.seconds,
            api_calls=costs.api_calls,
            throttled_seconds=costs.throttled_seconds,
        )
    )


def users_left(conn: Connection, run_id: str, chunk: int) -> list[str]:
    """The users of one chunk who have no outcome yet, or were left out as busy; sorted."""
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
    """Write how it went.

    A user who was forgotten meanwhile has no row any more and gets none, and neither does one whom
    another session keeps locked. What another process
    found out about a user stays: two may have the same chunk when one was believed to be dead.
    """
    r = t.sync_run_users
    there = lock_existence(conn, [one.user_id for one in outcomes])
    if there:
        conn.execute(
            update(r)
            .where(r.c.run_id == run_id, r.c.user_id == bindparam("of_user"), _is_open())
            .values(
                outcome=bindparam("outcome"),
                error_code=bindparam("error_code"),
                new_plays=bindparam("new_plays"),
                seconds=bindparam("seconds"),
            ),
            [
                {
                    "of_user": one.user_id,
                    "outcome": one.outcome,
                    "error_code": one.error_code,
                    "new_plays": one.new_plays,
                    "seconds": one.seconds,
                }
                for one in outcomes
                if one.user_id in there
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
    by_outcome: dict[str, int] = {}
    by_code: dict[str, int] = {}
    for outcome, code, count, _ in rows:
        by_outcome[outcome or "unknown"] = by_outcome.get(outcome or "unknown", 0) + count
        if code:
            by_code[code] = by_code.get(code, 0) + count
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
    """Every user of the run and how it went so far, by user_id."""
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
