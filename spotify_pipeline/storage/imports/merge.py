"""Stages rows of exports, merges them into a user's imported plays, computes plays from all facts.

`plays` is a function of the API plays, of `imported_plays` and of the catalogue: an API play stays
what it is and gets the `ms_played` of the row that it is matched with; every other row is a play of
its own. Computed again whenever a fact is added, in the caller's transaction, under the user's
lease.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Connection, DateTime, Text, func, or_, select, text

from spotify_pipeline.domain.listening.exported import (
    LONGEST_OFFLINE,
    MINUTE,
    ExportedPlay,
    ExportMatch,
    ListedPlay,
    match_export,
)
from spotify_pipeline.domain.listening.recordings import MOVED_WITHIN, Recording
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.bulk import any_of, array_rows
from spotify_pipeline.storage.postgres.engine import hash_joins

_LINES_AT_ONCE = 5_000


_INSTANT = DateTime(timezone=True)
_A_DAY = timedelta(days=1)

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


# The first of several equal rows; which of them are known, before they are added. An older export
# may have left out when an offline play began: then the row is known and completes the stored one.
_INCOMING = text("""
CREATE TEMPORARY TABLE incoming ON COMMIT DROP AS
SELECT
    s.*, i.user_id IS NOT NULL AS known,
    i.user_id IS NOT NULL
        AND coalesce(s.offline_started_at < coalesce(i.offline_started_at, 'infinity'), false)
        AS completes
FROM (
    SELECT DISTINCT ON (ended_at, track_id COLLATE "C", ms_played, source) *
    FROM staged_rows
    WHERE ended_at >= coalesce(:plays_from, '-infinity'::timestamptz)
    ORDER BY ended_at, track_id COLLATE "C", ms_played, source, offline_started_at, file, number
) AS s
LEFT JOIN imported_plays AS i
    ON i.user_id = :user_id AND i.ended_at = s.ended_at AND i.track_id = s.track_id
        AND i.ms_played = s.ms_played AND i.source = s.source
""")

_ADD = text("""
INSERT INTO imported_plays (user_id, ended_at, track_id, ms_played, source, offline_started_at)
SELECT :user_id, ended_at, track_id, ms_played, source, offline_started_at FROM incoming
WHERE NOT known
""")

# An upsert needs no join, so no plan of it is slow.
_COMPLETE = text("""
INSERT INTO imported_plays (user_id, ended_at, track_id, ms_played, source, offline_started_at)
SELECT :user_id, ended_at, track_id, ms_played, source, offline_started_at FROM incoming
WHERE completes
ON CONFLICT (user_id, ended_at, track_id, ms_played, source)
DO UPDATE SET offline_started_at = excluded.offline_started_at
""")


def add_facts(conn: Connection, user_id: str, plays_from: datetime | None) -> bool:
    """Add the staged rows that are not known, from `plays_from` on; whether any fact is new."""
    with hash_joins(conn):
        conn.execute(_INCOMING, {"user_id": user_id, "plays_from": plays_from})
    added = conn.execute(_ADD, {"user_id": user_id}).rowcount
    return added + conn.execute(_COMPLETE, {"user_id": user_id}).rowcount > 0


_MATCHES = """
DROP TABLE IF EXISTS pg_temp.matches, pg_temp.superseded, pg_temp.desired;
CREATE TEMPORARY TABLE matches (
    ended_at timestamptz, track_id text, ms_played int, source text,
    played_at timestamptz, play_track_id text
) ON COMMIT DROP;
CREATE TEMPORARY TABLE superseded (
    ended_at timestamptz, track_id text, ms_played int, source text,
    by_ended_at timestamptz, by_track_id text
) ON COMMIT DROP;
CREATE TEMPORARY TABLE desired (
    played_at timestamptz, track_id text, ms_played int
) ON COMMIT DROP;
"""

# Rows of one track that end in the same second, or minute, differ by milliseconds; so are
# a row and an API play at that instant which are two plays.
_DESIRED = text("""
INSERT INTO desired
SELECT
    i.ended_at + interval '1 ms' * (i.number - (a.user_id IS NULL)::int), i.track_id, i.ms_played
FROM (
    SELECT *, row_number() OVER (
        PARTITION BY ended_at, track_id ORDER BY ms_played DESC, source
    ) AS number
    FROM imported_plays WHERE user_id = :user_id
) AS i
LEFT JOIN plays AS a
    ON a.user_id = :user_id AND a.source = 'api'
        AND a.played_at = i.ended_at AND a.track_id = i.track_id
LEFT JOIN matches AS m
    ON m.ended_at = i.ended_at AND m.track_id = i.track_id
        AND m.ms_played = i.ms_played AND m.source = i.source
LEFT JOIN superseded AS s
    ON s.ended_at = i.ended_at AND s.track_id = i.track_id
        AND s.ms_played = i.ms_played AND s.source = i.source
WHERE m.played_at IS NULL AND s.by_ended_at IS NULL
""")

_DELETE = text("""
DELETE FROM plays AS p
WHERE p.user_id = :user_id AND p.source = 'export' AND NOT EXISTS (
    SELECT FROM desired AS d
    WHERE d.played_at = p.played_at AND d.track_id = p.track_id AND d.ms_played = p.ms_played
)
""")

# The primary artist as the API says; by name while it has not shown the track: the only artist of
# exactly that name, or, if there is none or several, an own one.
_RESOLVED = """
SELECT
    k.spotify_id AS track_id, k.duration_ms, k.release_date,
    k.artist_name IS NOT NULL AS is_named,
    coalesce(
        CASE WHEN k.artist_name <> '' THEN (
            SELECT min(a.spotify_id) FROM artists AS a
            WHERE a.name = k.artist_name AND NOT starts_with(a.spotify_id, 'name:')
            HAVING count(*) = 1
        ) END,
        k.artist_ids[1]
    ) AS artist_id
FROM tracks AS k
"""

_FORGET_TRACKS = text("""
DELETE FROM imported_tracks
WHERE user_id = :user_id AND track_id NOT IN (SELECT track_id FROM desired)
""")

# The array is looked up by index, however large the catalogue is.
_INSERT = text(f"""
WITH resolved AS MATERIALIZED (
    {_RESOLVED} WHERE k.spotify_id = ANY (ARRAY(SELECT DISTINCT track_id FROM desired))
), named AS (
    INSERT INTO imported_tracks (user_id, track_id, artist_id)
    SELECT :user_id, track_id, artist_id FROM resolved WHERE is_named
    ON CONFLICT DO NOTHING
)
INSERT INTO plays
    (user_id, played_at, track_id, source, ms_played, artist_id, duration_ms, release_date)
SELECT
    :user_id, d.played_at, d.track_id, 'export', d.ms_played,
    r.artist_id, r.duration_ms, r.release_date
FROM desired AS d JOIN resolved AS r ON r.track_id = d.track_id
WHERE NOT EXISTS (
    SELECT FROM plays AS p
    WHERE p.user_id = :user_id AND p.played_at = d.played_at AND p.track_id = d.track_id
)
ORDER BY d.played_at
""")  # noqa: S608 - a constant of this module

_HEARD = text("""
UPDATE plays AS p SET ms_played = n.ms_played
FROM (
    SELECT a.played_at, a.track_id, m.ms_played
    FROM plays AS a
    LEFT JOIN matches AS m ON m.played_at = a.played_at AND m.play_track_id = a.track_id
    WHERE a.user_id = :user_id AND a.source = 'api'
        AND a.ms_played IS DISTINCT FROM m.ms_played
) AS n
WHERE p.user_id = :user_id AND p.played_at = n.played_at AND p.track_id = n.track_id
""")


def compute_plays(conn: Connection, user_id: str) -> None:
    """Make the user's plays what all facts say: API plays, imported rows, catalogue.

    Leaves the temporary tables `matches` and `superseded` until the transaction ends.
    """
    user = {"user_id": user_id}
    conn.exec_driver_sql(_MATCHES, execution_options={"no_parameters": True})
    _save_match(conn, match_export(*_read_facts(conn, user_id)))
    with hash_joins(conn):
        for statement in (_DESIRED, _DELETE, _FORGET_TRACKS, _INSERT, _HEARD):
            conn.execute(statement, user)
    counters = t.listening_tallies
    # Changed plays change the personality; triggers notice new and deleted ones only.
    conn.execute(
        counters.update().where(counters.c.user_id == user_id).values(personality_key=None)
    )


def users_to_compute(conn: Connection, since: Mapping[str, datetime]) -> list[str]:
    """The users with an imported row that API plays since an instant of theirs may be."""
    i = t.imported_plays
    given = array_rows("given", user_id=(Text(), since), since=(_INSTANT, since.values()))
    near = select(i.c.user_id).where(
        i.c.user_id == given.c.user_id, i.c.ended_at >= given.c.since - MOVED_WITHIN
    )
    return list(conn.scalars(select(given.c.user_id).where(near.exists())))


def _read_facts(conn: Connection, user_id: str) -> tuple[list[ExportedPlay], list[ListedPlay]]:
    """The rows and API plays that may be one play: not the years that only an export knows."""
    i, p, r = t.imported_plays, t.plays, t.restamped_plays
    first, last = conn.execute(
        select(func.min(p.c.played_at), func.max(p.c.played_at)).where(
            p.c.user_id == user_id, p.c.source == "api"
        )
    ).one()
    spans = []
    if first is not None:
        near = i.c.ended_at.between(first - MOVED_WITHIN, last + MOVED_WITHIN + _A_DAY)
        late = i.c.ended_at.between(first - MOVED_WITHIN, last + LONGEST_OFFLINE)
        spans += [near, late & i.c.offline_started_at.is_not(None)]
    account = select(func.min(i.c.ended_at), func.max(i.c.ended_at)).where(
        i.c.user_id == user_id, i.c.source == "account"
    )
    first_minute, last_minute = conn.execute(account).one()
    if first_minute is not None:
        spans.append(i.c.ended_at.between(first_minute, last_minute + MINUTE))
    if not spans:
        return [], []
    rows = conn.execute(
        select(i.c.ended_at, i.c.ms_played, i.c.source, i.c.track_id, i.c.offline_started_at).where(
            i.c.user_id == user_id, or_(*spans)
        )
    ).all()
    listed: Sequence[Any] = ()
    if rows:
        earliest = min(row.ended_at for row in rows) - LONGEST_OFFLINE
        latest = max(row.ended_at for row in rows) + MINUTE + MOVED_WITHIN
        shown = func.array_agg(r.c.shown_at).filter(r.c.shown_at.is_not(None))
        listed = conn.execute(
            select(p.c.played_at, p.c.track_id, shown)
            .outerjoin(
                r,
                (r.c.user_id == p.c.user_id)
                & (r.c.played_at == p.c.played_at)
                & (r.c.track_id == p.c.track_id),
            )
            .where(
                p.c.user_id == user_id,
                p.c.source == "api",
                p.c.played_at.between(earliest, latest),
            )
            .group_by(p.c.played_at, p.c.track_id)
        ).all()
    ids = {row.track_id for row in rows} | {play.track_id for play in listed}
    recording = _read_recordings(conn, ids)
    return (
        [
            ExportedPlay(ended_at, ms, source, recording[track_id], offline)
            for ended_at, ms, source, track_id, offline in rows
        ],
        [ListedPlay(row[0], recording[row[1]], (row[0], *(row[2] or ()))) for row in listed],
    )


def _read_recordings(conn: Connection, track_ids: Collection[str]) -> dict[str, Recording]:
    """The recordings of these tracks, with the artist's name: exports have no artist ids."""
    k, a = t.tracks, t.artists
    rows = conn.execute(
        select(k.c.spotify_id, k.c.isrc, k.c.name, func.coalesce(k.c.artist_name, a.c.name))
        .outerjoin(a, a.c.spotify_id == k.c.artist_ids[1])
        .where(any_of(k.c.spotify_id, track_ids))
    )
    return {row[0]: Recording(*row) for row in rows}


def _save_match(conn: Connection, match: ExportMatch) -> None:
    pairs = {
        "matches": list(match.listed.items()),
        "superseded": [(row, by[:2]) for row, by in match.superseded.items()],
    }
    for table, rows in pairs.items():
        if rows:
            columns = zip(*((*row, *other) for row, other in rows), strict=True)
            conn.execute(_SAVE_PAIRS[table], dict(zip("abcdef", map(list, columns), strict=True)))


_PAIRS = """
SELECT * FROM unnest(
    cast(:a AS timestamptz[]), cast(:b AS text[]), cast(:c AS int[]), cast(:d AS text[]),
    cast(:e AS timestamptz[]), cast(:f AS text[])
)
"""
_SAVE_PAIRS = {
    "matches": text(f"INSERT INTO matches {_PAIRS}"),
    "superseded": text(f"INSERT INTO superseded {_PAIRS}"),
}

_LEARNED = text(f"""
SELECT i.user_id, r.* FROM imported_tracks AS i
CROSS JOIN LATERAL ({_RESOLVED} WHERE k.spotify_id = i.track_id) AS r
WHERE i.user_id = ANY (:user_ids) AND (r.artist_id <> i.artist_id OR NOT r.is_named)
""")  # noqa: S608 - a constant of this module

# Without the users as a condition of their own a hash join reads the plays of all users.
_COMPLETE_PLAYS = text("""
WITH learned AS (
    SELECT * FROM unnest(
        cast(:user_id AS text[]), cast(:track_id AS text[]), cast(:artist_id AS text[]),
        cast(:duration_ms AS int[]), cast(:release_date AS text[]), cast(:is_named AS bool[])
    ) AS l (user_id, track_id, artist_id, duration_ms, release_date, is_named)
), shown AS (
    DELETE FROM imported_tracks AS i USING learned AS l
    WHERE i.user_id = ANY (:users) AND i.user_id = l.user_id AND i.track_id = l.track_id
        AND NOT l.is_named
), renamed AS (
    UPDATE imported_tracks AS i SET artist_id = l.artist_id FROM learned AS l
    WHERE i.user_id = ANY (:users) AND i.user_id = l.user_id AND i.track_id = l.track_id
        AND l.is_named
)
UPDATE plays AS p SET
    artist_id = l.artist_id,
    duration_ms = coalesce(p.duration_ms, l.duration_ms),
    release_date = coalesce(p.release_date, l.release_date)
FROM learned AS l
WHERE p.user_id = ANY (:users) AND p.user_id = l.user_id AND p.track_id = l.track_id
    AND p.source = 'export'
RETURNING p.user_id, p.played_at
""")


def complete_imported_plays(
    conn: Connection, user_ids: Collection[str]
) -> list[tuple[str, datetime]]:
    """Give imported plays what the API has shown of their tracks and artists since.

    Returns (user_id, played_at) of the plays changed.
    """
    learned = conn.execute(_LEARNED, {"user_ids": list(user_ids)}).mappings().all()
    if not learned:
        return []
    columns = ("user_id", "track_id", "artist_id", "duration_ms", "release_date", "is_named")
    values = {name: [row[name] for row in learned] for name in columns}
    with hash_joins(conn):
        changed = conn.execute(
            _COMPLETE_PLAYS, {**values, "users": sorted(set(values["user_id"]))}
        ).all()
    return [(row.user_id, row.played_at) for row in changed]
