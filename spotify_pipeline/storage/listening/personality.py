"""Music personality: one row per user, as of the last time it changed, and what it is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pandas as pd
from sqlalchemy import (
    ARRAY,
    Connection,
    Date,
    Integer,
    Text,
    cast,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from spotify_pipeline.domain.personality.streaks import Past
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.frames import records
from spotify_pipeline.storage.postgres.upsert import Written, upsert_changed


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a stored personality was computed from, and the streaks that need no second look."""

    # None: there is no personality, or plays or days have changed since.
    key: str | None
    # None: nothing is summed up.
    past: Past | None


@dataclass(frozen=True, slots=True)
class ListState:
    """One stored top artist list: what it says, as a digest, and when it was fetched."""

    time_range: str
    fetched_at: datetime
    digest: str


def write_personality(conn: Connection, rows: pd.DataFrame, computed_at: datetime) -> Written:
    """Store the personality of these users; computed_at moves only with another column."""
    return upsert_changed(
        conn,
        t.music_personality,
        records(rows.assign(computed_at=computed_at)),
        stamps=("computed_at",),
    )


def lock_fingerprints(conn: Connection, user_ids: Sequence[str]) -> dict[str, Fingerprint]:
    """Each user's basis; plays and days of others' transactions wait until ours ends.

    Otherwise a key could be saved over the note that plays have come meanwhile.
    """
    b, m = t.listening_tallies, t.music_personality
    rows = conn.execute(
        select(b, m.c.user_id.is_not(None).label("is_there"))
        .outerjoin_from(b, m, m.c.user_id == b.c.user_id)
        .where(b.c.user_id.in_(user_ids))
        .order_by(b.c.user_id)
        .with_for_update(of=b, key_share=True)
    )
    return {
        row.user_id: Fingerprint(
            key=row.personality_key if row.is_there else None,
            past=None
            if row.streaks_before is None
            else Past(
                row.streaks_before,
                row.streak_days,
                row.longest_streak,
                row.longest_streak_artist_id,
            ),
        )
        for row in rows
    }


def save_fingerprints(conn: Connection, fingerprints: Mapping[str, Fingerprint]) -> None:
    """Write down what each user's personality was computed from, where it is another."""
    b = t.listening_tallies
    pasts = [fingerprint.past for fingerprint in fingerprints.values()]
    new = (
        func.unnest(
            literal(list(fingerprints), ARRAY(Text)),
            literal([fingerprint.key for fingerprint in fingerprints.values()], ARRAY(Text)),
            literal([past and past.before for past in pasts], ARRAY(Date)),
            literal([past.days if past else 0 for past in pasts], ARRAY(Integer)),
            literal([past.longest if past else 0 for past in pasts], ARRAY(Integer)),
            literal([past and past.longest_artist_id for past in pasts], ARRAY(Text)),
        )
        .table_valued("user_id", "key", "before", "days", "longest", "artist_id", name="new")
        .render_derived()
    )
    values = {
        b.c.personality_key: new.c.key,
        b.c.streaks_before: new.c.before,
        b.c.streak_days: new.c.days,
        b.c.longest_streak: new.c.longest,
        b.c.longest_streak_artist_id: new.c.artist_id,
    }
    if fingerprints:
        conn.execute(
            update(b)
            .where(
                b.c.user_id == new.c.user_id,
                tuple_(*values).is_distinct_from(tuple_(*values.values())),
            )
            .values(values)
        )


def read_list_states(conn: Connection, user_ids: Sequence[str]) -> dict[str, list[ListState]]:
    """The top artist lists of each user, by time range; only what the personality reads counts."""
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
