"""Daily listening: one row per user and local day with a play, rebuilt from plays at any time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pandas as pd
from sqlalchemy import (
    Connection,
    Date,
    bindparam,
    cast,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.frames import records
from spotify_pipeline.storage.upsert import Written, upsert_changed


@dataclass(frozen=True, slots=True)
class StoredDay:
    """One stored day and what is said about its completeness."""

    user_id: str
    date: date
    completeness: str


def write_days(
    conn: Connection, days: pd.DataFrame, touched: pd.DataFrame, computed_at: datetime
) -> Written:
    """Make the touched (user_id, date) pairs equal `days`; a touched day without plays goes.

    `days` has the columns of daily_listening without computed_at, which moves only with another
    column.
    """
    table = t.daily_listening
    written = upsert_changed(
        conn, table, records(days.assign(computed_at=computed_at)), stamps=("computed_at",)
    )
    emptied = set(zip(touched["user_id"], touched["date"], strict=True)) - set(
        zip(days["user_id"], days["date"], strict=True)
    )
    if emptied:
        conn.execute(
            delete(table).where(tuple_(table.c.user_id, table.c.date).in_(sorted(emptied)))
        )
    return written


def read_dates(conn: Connection, user_ids: Iterable[str]) -> pd.DataFrame:
    """Every stored day: user_id, date, top_artist_id (None: no countable play), in order."""
    table = t.daily_listening
    columns = (table.c.user_id, table.c.date, table.c.top_artist_id)
    rows = conn.execute(
        select(*columns)
        .where(table.c.user_id.in_(list(user_ids)))
        .order_by(table.c.user_id, table.c.date)
    ).all()
    return pd.DataFrame(rows, columns=[column.name for column in columns])


def count_days(conn: Connection, user_ids: Iterable[str]) -> dict[str, int]:
    """Stored days per user; users without any are left out."""
    table = t.daily_listening
    rows = conn.execute(
        select(table.c.user_id, func.count())
        .where(table.c.user_id.in_(list(user_ids)))
        .group_by(table.c.user_id)
    )
    return {row[0]: row[1] for row in rows}


def read_unsettled(
    conn: Connection, user_ids: Sequence[str], all_of: Iterable[str] = ()
) -> list[StoredDay]:
    """The days of these users that are not complete, those near an open gap, and all of `all_of`.

    A gap that has just opened may touch days that were complete until now.
    """
    d, g = t.daily_listening, t.listening_gaps
    # A day to each side: in no zone is it further from the date in UTC to the local one.
    day = timedelta(days=1)
    near_a_gap = (
        select(g.c.id)
        .where(
            g.c.user_id == d.c.user_id,
            g.c.closed_at.is_(None),
            d.c.date.between(cast(g.c.gap_start - day, Date), cast(g.c.gap_end + day, Date)),
        )
        .exists()
    )
    rows = conn.execute(
        select(d.c.user_id, d.c.date, d.c.completeness).where(
            d.c.user_id.in_(user_ids),
            or_(d.c.completeness != "complete", near_a_gap, d.c.user_id.in_(list(all_of))),
        )
    )
    return [StoredDay(*row) for row in rows]


def save_completeness(conn: Connection, days: Sequence[StoredDay], computed_at: datetime) -> None:
    """Write the completeness of these days, which has changed."""
    table = t.daily_listening
    if days:
        conn.execute(
            update(table)
            .where(table.c.user_id == bindparam("of_user"), table.c.date == bindparam("of_date"))
            .values(completeness=bindparam("now"), computed_at=computed_at),
            [{"of_user": d.user_id, "of_date": d.date, "now": d.completeness} for d in days],
        )
