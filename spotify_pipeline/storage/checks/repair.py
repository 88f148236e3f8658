"""Repairs what a sync under a wrong clock left: instants of the future."""

from sqlalchemy import Connection, case, delete, func, null, or_, select
from sqlalchemy import update as change

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.checks.queries import Scope, future_instants
from spotify_pipeline.storage.postgres.bulk import any_of


def repair_future_instants(conn: Connection) -> int:
    """Replace every instant of the future, by the database's clock; return of how many users.

    Coverage then ends at the last fetch that is logged before now, so it claims less than was
    fetched rather than more. These users become due, and their days stale.
    """
    now = conn.execute(select(func.now())).scalar_one()
    u, s, c, log = t.users, t.sync_state, t.coverage, t.fetch_log
    found = conn.scalars(select(future_instants(Scope(now)).subquery("bad").c.user_id)).all()
    # In the order in which a sync's write locks them, so that there is no deadlock.
    users = select(u.c.user_id).where(any_of(u.c.user_id, found)).order_by(u.c.user_id)
    conn.execute(users.with_for_update(key_share=True))
    states = select(s.c.user_id).where(any_of(s.c.user_id, found)).order_by(s.c.user_id)
    conn.execute(states.with_for_update())

    conn.execute(delete(log).where(any_of(log.c.user_id, found), log.c.fetched_at > now))
    fetched_at = select(func.max(log.c.fetched_at)).where(log.c.user_id == s.c.user_id)
    recorded_at = func.least(s.c.recorded_at, now)
    conn.execute(
        change(s)
        .where(any_of(s.c.user_id, found))
        .values(
            plays_fetched_at=case(
                (s.c.plays_fetched_at > now, fetched_at.scalar_subquery()),
                else_=s.c.plays_fetched_at,
            ),
            tops_fetched_at=case((s.c.tops_fetched_at > now, null()), else_=s.c.tops_fetched_at),
            last_synced_at=case((s.c.last_synced_at > now, recorded_at), else_=s.c.last_synced_at),
            last_success_at=case(
                (s.c.last_success_at > now, recorded_at), else_=s.c.last_success_at
            ),
            next_due_at=None,
        )
    )
    last_fetch = (
        select(func.max(log.c.fetched_at))
        .where(log.c.user_id == c.c.user_id, log.c.fetched_at >= c.c.covered_from)
        .scalar_subquery()
    )
    ahead = any_of(c.c.user_id, found) & (c.c.covered_to > now)
    conn.execute(delete(c).where(ahead, or_(c.c.covered_from >= last_fetch, last_fetch.is_(None))))
    conn.execute(change(c).where(ahead).values(covered_to=last_fetch))
    conn.execute(change(u).where(any_of(u.c.user_id, found)).values(days_stale=True))
    return len(found)
