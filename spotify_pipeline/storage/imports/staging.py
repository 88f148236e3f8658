"""Rows of an import on their way in: a temporary table that ends with the transaction.

A process that dies leaves nothing behind, and no row of a user is locked while files are read.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection, func, select, text

_LINES_AT_ONCE = 5_000

_CREATE = text("""
CREATE TEMPORARY TABLE staged_rows (
    file int NOT NULL,
    number int NOT NULL,
    ended_at timestamptz NOT NULL,
    track_id text NOT NULL,
    ms_played int NOT NULL,
    source text NOT NULL,
    offline_started_at timestamptz
) ON COMMIT DROP
""")
_COPY = "COPY pg_temp.staged_rows FROM STDIN"


def staged_line(
    file: int,
    number: int,
    ended_at: datetime,
    track_id: str,
    ms_played: int,
    source: str,
    offline_started_at: datetime | None,
) -> str:
    """A row as COPY reads it. Track ids have no character that needs escaping."""
    offline = offline_started_at.isoformat() if offline_started_at else "\\N"
    return (
        f"{file}\t{number}\t{ended_at.isoformat()}\t{track_id}\t{ms_played}\t{source}\t{offline}\n"
    )


def stage_rows(conn: Connection, lines: Iterable[str]) -> None:
    """Stage these lines of `staged_line` until the transaction ends."""
    # The default of 4 MB would sort a history of years on disk.
    conn.execute(select(func.set_config("work_mem", "64MB", True)))
    conn.execute(_CREATE)
    with conn.connection.cursor().copy(_COPY) as copy:
        for block in _blocks(lines):
            copy.write(block)


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    rest = iter(lines)
    while block := "".join(islice(rest, _LINES_AT_ONCE)):
        yield block
