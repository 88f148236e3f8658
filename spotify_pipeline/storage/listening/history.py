"""Reads whole histories in parts of bounded size: a user may have a million plays."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from io import BytesIO

import pandas as pd
from sqlalchemy import Connection, Date, cast, func, select

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.plays import ALWAYS, PLAY_DTYPES, Window

# 100,000 plays take 100 MB while their days are computed.
PART_PLAYS = 100_000

# First and last date of a part of somebody's history; None: all of it.
Dates = tuple[date, date] | None

_A_MONTH = timedelta(days=31)

_COPY = """
COPY (
    SELECT reading.number, (date_part('epoch', p.played_at) * 1000000)::bigint,
        ':' || p.track_id, ':' || p.artist_id, p.source, p.ms_played, p.duration_ms
    FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[])
        WITH ORDINALITY AS reading (user_id, since, until, number)
    JOIN spotify_pipeline.plays AS p ON p.user_id = reading.user_id
        AND p.played_at < reading.until
        AND p.played_at >= coalesce(
            (
                SELECT max(q.played_at) FROM spotify_pipeline.plays AS q
                WHERE q.user_id = reading.user_id AND q.played_at < reading.since
            ),
            reading.since
        )
) TO STDOUT (FORMAT csv, HEADER)
"""


def parts_of_history(
    conn: Connection, user_ids: Sequence[str], plays: int = PART_PLAYS
) -> Iterator[dict[str, Dates]]:
    """Cut the stored plays of these users into parts of about so many plays.

    Users with few plays are whole and share a part. Somebody with more has several parts, each of
    whole months by the date in UTC; together they cover every date with a play in any zone.
    """
    b = t.listening_tallies
    totals = conn.execute(
        select(b.c.user_id, b.c.plays).where(b.c.user_id.in_(user_ids)).order_by(b.c.user_id)
    ).all()
    whole: dict[str, Dates] = {}
    size = 0
    for user_id, total in totals:
        if total > plays:
            for dates in _dates_of_parts(conn, user_id, plays):
                yield {user_id: dates}
            continue
        if whole and size + total > plays:
            yield whole
            whole, size = {}, 0
        whole[user_id] = None
        size += total
    if whole:
        yield whole


def _dates_of_parts(conn: Connection, user_id: str, plays: int) -> list[tuple[date, date]]:
    """The dates of somebody's parts, one after the other without a hole."""
    p = t.plays
    month = cast(func.date_trunc("month", p.c.played_at), Date)
    months = conn.execute(
        select(month, func.count()).where(p.c.user_id == user_id).group_by(month).order_by(month)
    ).all()
    begins: list[date] = []
    size = 0
    for first, count in months:
        if not begins or size + count > plays:
            begins.append(first)
            size = 0
        size += count
    # In some zones it is already another date, or still.
    begins[0] -= timedelta(days=1)
    ends = [*(begin - timedelta(days=1) for begin in begins[1:]), months[-1][0] + _A_MONTH]
    return list(zip(begins, ends, strict=True))


class HistoryReader:
    """Reads plays as `read_plays` does, in any order and without release dates, but faster.

    COPY has no row in Python.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def read(self, windows: Mapping[str, Window]) -> pd.DataFrame:
        """Plays of each user in their half-open UTC window (None: all), and the one before it."""
        spans = [window or ALWAYS for window in windows.values()]
        since, until = ([span[n] for span in spans] for n in (0, 1))
        text = BytesIO()
        cursor = self._conn.connection.cursor()
        with cursor.copy(_COPY, (list(windows), since, until)) as copied:
            for block in copied:
                text.write(block)
        text.seek(0)
        plays = pd.read_csv(
            text,
            header=0,
            names=[
                "user",
                "played_at",
                "track_id",
                "artist_id",
                "source",
                "ms_played",
                "duration_ms",
            ],
            dtype={
                "user": "int64",
                "played_at": "int64",
                "track_id": "category",
                "artist_id": "category",
                "source": "category",
                "ms_played": "Int64",
                "duration_ms": "Int64",
            },
            # An id may be any text, NA and the empty one included.
            keep_default_na=False,
            na_values={"ms_played": [""], "duration_ms": [""], "artist_id": [""]},
        )
        users = pd.Categorical.from_codes(plays["user"].to_numpy() - 1, pd.Index(list(windows)))
        return pd.DataFrame(
            {
                "user_id": users,
                "played_at": pd.to_datetime(plays["played_at"], unit="us", utc=True),
                "track_id": _unmarked(plays["track_id"]),
                "artist_id": _unmarked(plays["artist_id"]),
                "source": plays["source"],
                "ms_played": plays["ms_played"],
                "duration_ms": plays["duration_ms"],
            },
            columns=[name for name in PLAY_DTYPES if name != "release_date"],
        )


def _unmarked(ids: pd.Series) -> pd.Series:
    """Ids without the colon that marks them as text: digits would have been read as numbers."""
    return ids.cat.rename_categories(lambda marked: str(marked)[1:])
