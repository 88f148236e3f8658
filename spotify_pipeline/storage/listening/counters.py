"""Counts the stored plays and days of users again: what triggers keep, a restore may part."""

from collections.abc import Sequence

from sqlalchemy import ARRAY, Connection, Text, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from spotify_pipeline.storage import tables as t


def recount(conn: Connection, user_ids: Sequence[str]) -> None:
    """Count these users' plays and days again, in the caller's transaction.

    Nothing else that their tallies say is believed either: the personality and its streaks are to
    be computed anew. Users who are not there any more are left out.
    """
    u, tally = t.users, t.listening_tallies
    wanted = literal(list(user_ids), ARRAY(Text))
    there = select(u.c.user_id).where(u.c.user_id == func.any(wanted))
    conn.execute(insert(tally).from_select(["user_id"], there).on_conflict_do_nothing())
    ours = tally.c.user_id == func.any(wanted)
    # First locked, then counted by a statement that sees what others committed until they let go:
    # whoever writes after that adds to our number.
    conn.execute(
        select(tally.c.user_id)
        .where(ours)
        .order_by(tally.c.user_id)
        .with_for_update(key_share=True)
    )
    plays, days = (
        select(func.count()).where(table.c.user_id == tally.c.user_id).scalar_subquery()
        for table in (t.plays, t.daily_listening)
    )
    conn.execute(
        update(tally)
        .where(ours)
        .values(plays=plays, days=days, personality_key=None, streaks_before=None)
    )
