"""Daily listening: one row per user and local day with a play, rebuilt from plays at any time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pandas as pd
from sqlalchemy import (
    ARRAY,
    Connection,
    Date,
    Text,
    bindparam,
    delete,
    func,
    literal,
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


def read_unsettled(conn: Connection, since: Mapping[str, date]) -> list[StoredDay]:
    """The days of these users that are not complete, and all from a user's `since` on."""
    table = t.daily_listening
    bounds = (
        func.unnest(literal(list(since), ARRAY(Text)), literal(list(since.values()), ARRAY(Date)))
        .table_valued("user_id", "since", name="bounds")
        .render_derived()
    )
    rows = conn.execute(
        select(table.c.user_id, table.c.date, table.c.completeness)
        .join_from(table, bounds, table.c.user_id == bounds.c.user_id)
        .where(or_(table.c.completeness != "complete", table.c.date >= bounds.c.since))
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
