"""Who belongs to a run over many users, and how it went for each: sync_run_users."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.storage import tables as t


@dataclass(frozen=True, slots=True)
class RunUser:
    """One user's outcome in a run; None while it is not known."""

    user_id: str
    outcome: str | None
    error_code: str | None
    new_plays: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunTotals:
    """A run's users by outcome and by error code, and what they brought."""

    by_outcome: dict[str, int]
    by_code: dict[str, int]
    new_plays: int


def enlist(conn: Connection, run_id: str, user_ids: Sequence[str]) -> None:
    """Note who belongs to the run. Noting them again changes nothing."""
    if user_ids:
        conn.execute(
            insert(t.sync_run_users).on_conflict_do_nothing(),
            [{"run_id": run_id, "user_id": user_id} for user_id in sorted(user_ids)],
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


def chunk_users(conn: Connection, run_id: str, chunk: int) -> list[str]:
    """The users of one chunk, sorted."""
    r = t.sync_run_users
    return list(
        conn.scalars(
            select(r.c.user_id)
            .where(r.c.run_id == run_id, r.c.chunk == chunk)
            .order_by(r.c.user_id)
        )
    )


def save_outcomes(conn: Connection, run_id: str, outcomes: Sequence[RunUser]) -> None:
    """Write how it went. A user who was forgotten meanwhile has no row any more and gets none."""
    r = t.sync_run_users
    if outcomes:
        conn.execute(
            update(r)
            .where(r.c.run_id == run_id, r.c.user_id == bindparam("of_user"))
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
    return RunTotals(by_outcome, by_code, sum(int(row[3]) for row in rows))


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
