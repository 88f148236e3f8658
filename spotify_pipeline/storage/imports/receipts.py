"""Receipts of imports: rows by fate, counted after the merge and stored with it."""

from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    DateTime,
    bindparam,
    delete,
    func,
    insert,
    null,
    select,
    text,
    update,
)

from spotify_pipeline.domain.import_receipt import FATES, Estimate, FileReceipt, Receipt
from spotify_pipeline.domain.model import CAPPED_FROM_MS, COUNTED_FROM_MS
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import hash_joins

# An extended row of a play that account data had brought in an earlier import is known too.
_FATES = text("""
SELECT i.file, i.fate, count(*) FROM (
    SELECT
        n.file,
        CASE
            WHEN n.known THEN 'known'
            WHEN s.by_ended_at IS NOT NULL THEN 'superseded'
            WHEN b.ended_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM incoming AS o
                WHERE o.ended_at = b.ended_at AND o.track_id = b.track_id
                    AND o.ms_played = b.ms_played AND o.source = b.source AND NOT o.known
            ) THEN 'known'
            WHEN m.played_at IS NOT NULL THEN 'matched'
            WHEN n.ms_played < :counted_from THEN 'short'
            ELSE 'new'
        END AS fate
    FROM incoming AS n
    LEFT JOIN matches AS m
        ON m.ended_at = n.ended_at AND m.track_id = n.track_id
            AND m.ms_played = n.ms_played AND m.source = n.source
    LEFT JOIN superseded AS s
        ON s.ended_at = n.ended_at AND s.track_id = n.track_id
            AND s.ms_played = n.ms_played AND s.source = n.source
    LEFT JOIN superseded AS b
        ON n.source = 'extended' AND b.by_ended_at = n.ended_at AND b.by_track_id = n.track_id
            AND b.ms_played = n.ms_played
) AS i
GROUP BY i.file, i.fate
""")

_ALL_KNOWN = text("SELECT file, 'known', count(*) FROM incoming GROUP BY file")

_LEFT_OUT = text("""
SELECT s.file, s.before, s.after - coalesce(n.first, 0)
FROM (
    SELECT
        file,
        count(*) FILTER (WHERE ended_at < :plays_from) AS before,
        count(*) FILTER (WHERE ended_at < :plays_from IS NOT TRUE) AS after
    FROM staged_rows GROUP BY file
) AS s
LEFT JOIN (SELECT file, count(*) AS first FROM incoming GROUP BY file) AS n ON n.file = s.file
""").bindparams(bindparam("plays_from", type_=DateTime(timezone=True)))

# Compares both over the time that the API and the imports cover. The estimate is that of
# `plays_heard` over the API plays alone.
_ESTIMATE = text("""
WITH covered AS (
    SELECT
        range_agg(tstzrange(covered_from, covered_to, '[]')) FILTER (WHERE basis = 'api')
        * range_agg(tstzrange(covered_from, covered_to, '[]')) FILTER (WHERE basis = 'export')
        AS span
    FROM coverage WHERE user_id = :user_id
), listed AS (
    SELECT
        p.played_at, p.duration_ms,
        cast(extract(epoch FROM p.played_at - lag(p.played_at) OVER (
            ORDER BY p.played_at, p.track_id COLLATE "C"
        )) * 1000 AS bigint) AS since
    FROM plays AS p WHERE p.user_id = :user_id AND p.source = 'api'
)
SELECT
    count(DISTINCT (l.played_at AT TIME ZONE 'UTC')::date),
    coalesce(sum(
        CASE WHEN l.since >= :capped_from AND l.since < l.duration_ms THEN l.since
        ELSE coalesce(l.duration_ms, 0) END
    ), 0)::bigint,
    (
        SELECT coalesce(sum(p.ms_played), 0)::bigint FROM plays AS p, covered AS c
        WHERE p.user_id = :user_id AND p.played_at BETWEEN lower(c.span) AND upper(c.span)
            AND c.span @> p.played_at
    )
FROM listed AS l, covered AS c WHERE c.span @> l.played_at
""")


def compare_minutes(conn: Connection, user_id: str) -> Estimate | None:
    """The API's estimate beside the time heard; None where the two cover no time together."""
    values = {"user_id": user_id, "capped_from": CAPPED_FROM_MS}
    estimate = Estimate(*conn.execute(_ESTIMATE, values).one())
    return estimate if estimate.days else None


def save_receipt(
    conn: Connection, user_id: str, receipt: Receipt, upload_id: int | None = None
) -> None:
    """Store the receipt of an import that succeeds with this transaction: a new one, or an upload.

    The caller has locked the upload.
    """
    i, b = t.history_imports, t.history_import_batches
    done = {"status": "succeeded", "finished_at": func.now(), **_counts(receipt)}
    if upload_id is None:
        new = insert(i).values(user_id=user_id, **done).returning(i.c.id)
        import_id = conn.execute(new).scalar_one()
    else:
        import_id = upload_id
        conn.execute(
            update(i).where(i.c.id == import_id).values(files=null(), closed_at=null(), **done)
        )
        conn.execute(delete(b).where(b.c.import_id == import_id))
    files = [
        {
            "import_id": import_id,
            "number": number,
            "user_id": user_id,
            "name": file.name,
            "source": file.source,
            "malformed_rows": [list(row) for row in file.malformed],
            **_counts(file),
        }
        for number, file in enumerate(receipt.files)
    ]
    if files:
        conn.execute(insert(t.history_import_files), files)


def latest_receipt(conn: Connection, user_id: str) -> Receipt | None:
    """The receipt of the user's latest import that succeeded, without the estimate."""
    i, f = t.history_imports, t.history_import_files
    latest = (
        select(func.max(i.c.id))
        .where(i.c.user_id == user_id, i.c.status == "succeeded")
        .scalar_subquery()
    )
    rows = conn.execute(select(f).where(f.c.import_id == latest).order_by(f.c.number)).mappings()
    files = tuple(
        FileReceipt(
            name=row["name"],
            source=row["source"],
            rows_read=row["rows_read"],
            fates={fate: row[fate] for fate in FATES},
            first_at=row["first_at"],
            last_at=row["last_at"],
            malformed=tuple((index, reason) for index, reason in row["malformed_rows"]),
        )
        for row in rows
    )
    return Receipt(files) if files else None


def _counts(receipt: Receipt | FileReceipt) -> dict[str, Any]:
    fates = {fate: receipt.fates.get(fate, 0) for fate in FATES}
    span = {"first_at": receipt.first_at, "last_at": receipt.last_at}
    return {"rows_read": receipt.rows_read, **fates, **span}


def count_fates(
    conn: Connection, plays_from: datetime | None, *, merged: bool
) -> dict[int, Counter[str]]:
    """The fates of the staged rows, by number of the file.

    `merged`: plays were computed in this transaction, because a row was new.
    """
    fates: dict[int, Counter[str]] = defaultdict(Counter)
    counted = _FATES.bindparams(counted_from=COUNTED_FROM_MS) if merged else _ALL_KNOWN
    with hash_joins(conn):
        for file, fate, count in conn.execute(counted):
            fates[file][fate] = count
        for file, before, repeated in conn.execute(_LEFT_OUT, {"plays_from": plays_from}):
            fates[file] += Counter(before_retention=before, repeated=repeated)
    return fates
