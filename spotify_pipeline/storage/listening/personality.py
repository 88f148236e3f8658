"""Music personality, now and per month, and the fingerprint of what it was computed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    Connection,
    Date,
    Text,
    cast,
    func,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import Written, array_rows, records, upsert_changed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A hash of the inputs of a stored personality, and how far its months are stored."""

    # None: there is no personality, or plays or days have changed since (triggers note it).
    key: str | None
    # Of this month and later ones the metrics are not stored; None: of no month.
    months_before: date | None


@dataclass(frozen=True, slots=True)
class ListState:
    """One stored top artist list: a digest of its rows, and when it was fetched."""

    time_range: str
    fetched_at: datetime
    digest: str


def write_personality(conn: Connection, rows: "pd.DataFrame", computed_at: datetime) -> Written:
    """Store the personality of these users; computed_at moves only with another column."""
    return upsert_changed(
        conn,
        t.music_personality,
        records(rows.assign(computed_at=computed_at)),
        stamps=("computed_at",),
    )


def lock_fingerprints(conn: Connection, user_ids: Sequence[str]) -> dict[str, Fingerprint]:
    """Each user's fingerprint; other transactions' plays and days wait until ours ends.

    Prevents a lost update: plays that arrive while the personality is computed invalidate the key,
    and saving the key afterwards would undo that.
    """
    c, m = t.listening_tallies, t.music_personality
    rows = conn.execute(
        select(c, m.c.user_id.is_not(None).label("is_there"))
        .outerjoin_from(c, m, m.c.user_id == c.c.user_id)
        .where(c.c.user_id.in_(user_ids))
        .order_by(c.c.user_id)
        .with_for_update(of=c, key_share=True)
    )
    return {
        row.user_id: Fingerprint(row.personality_key if row.is_there else None, row.months_before)
        for row in rows
    }


def save_keys(conn: Connection, keys: Mapping[str, str]) -> None:
    """Store each user's fingerprint key if it differs; lock_fingerprints comes first."""
    c = t.listening_tallies
    new = array_rows("new", user_id=(Text(), keys), key=(Text(), keys.values()))
    differs = c.c.personality_key.is_distinct_from(new.c.key)
    conn.execute(
        update(c).where(c.c.user_id == new.c.user_id, differs).values(personality_key=new.c.key)
    )


def write_months(conn: Connection, rows: "pd.DataFrame", computed_at: datetime) -> None:
    """Store these users' months: the columns of music_personality_history but computed_at."""
    upsert_changed(
        conn,
        t.music_personality_history,
        records(rows.assign(computed_at=computed_at)),
        stamps=("computed_at",),
    )


def save_months_before(conn: Connection, months: Mapping[str, date]) -> None:
    """Note for each user before which month all are stored; lock_fingerprints comes first."""
    c = t.listening_tallies
    new = array_rows("new", user_id=(Text(), months), month=(Date(), months.values()))
    conn.execute(update(c).where(c.c.user_id == new.c.user_id).values(months_before=new.c.month))


def read_first_days(conn: Connection, user_ids: Sequence[str]) -> dict[str, date]:
    """Each user's first stored day or month; users who have neither are left out."""
    d, m = t.daily_listening, t.music_personality_history
    firsts = union_all(
        select(d.c.user_id, func.min(d.c.date).label("first"))
        .where(d.c.user_id.in_(user_ids))
        .group_by(d.c.user_id),
        select(m.c.user_id, func.min(m.c.month))
        .where(m.c.user_id.in_(user_ids))
        .group_by(m.c.user_id),
    ).subquery()
    rows = conn.execute(
        select(firsts.c.user_id, func.min(firsts.c.first)).group_by(firsts.c.user_id)
    )
    return {user_id: first for user_id, first in rows}


def read_list_states(conn: Connection, user_ids: Sequence[str]) -> dict[str, list[ListState]]:
    """The top artist lists of each user, by time range; digests of what the personality reads."""
    a = t.user_top_artists
    row = func.row(a.c.rank, a.c.spotify_id, a.c.genres, a.c.popularity)
    listed = func.string_agg(cast(row, Text), aggregate_order_by(literal("\n"), a.c.rank))
    states: dict[str, list[ListState]] = {}
    for user_id, *state in conn.execute(
        select(a.c.user_id, a.c.time_range, func.min(a.c.fetched_at), func.md5(listed))
        .where(a.c.user_id.in_(user_ids))
        .group_by(a.c.user_id, a.c.time_range)
        .order_by(a.c.user_id, a.c.time_range)
    ):
        states.setdefault(user_id, []).append(ListState(*state))
    return states
