"""Plays: facts, stored once, never overwritten. Also reads the view `listens` of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Connection,
    DateTime,
    TableValuedAlias,
    Text,
    and_,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.listening.recordings import (
    MOVED_WITHIN,
    Recording,
    Restamped,
    StoredPlay,
)
from spotify_pipeline.domain.model import COUNTED_FROM_MS, Play, Track
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.counters import previous_play
from spotify_pipeline.storage.postgres.bulk import any_of, array_rows, frame, insert_rows

if TYPE_CHECKING:
    import pandas as pd

PLAY_DTYPES = {
    "user_id": "str",
    "played_at": "datetime64[us, UTC]",
    "track_id": "str",
    "artist_id": "str",
    "source": "str",
    "ms_played": "Int64",
    "duration_ms": "Int64",
    "release_date": "str",
}

_INSTANT = DateTime(timezone=True)

# From and until, half-open, UTC; None: always.
Window = tuple[datetime, datetime] | None
ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class PlaysSummary:
    """The distinct primary artists and the number of plays of a user in a window."""

    artist_ids: list[str]
    plays: int


def insert_plays(
    conn: Connection, plays: Mapping[str, Sequence[tuple[Play, Track]]]
) -> list[tuple[str, datetime]]:
    """Store plays that are not known yet; return (user_id, played_at) of the new ones.

    One that stood there because an export holds it becomes the API's.

    A play keeps its track's primary artist, length and release date as they were sent with it; a
    trigger takes what was not sent from the catalogue.
    """
    rows = [
        {
            "user_id": user_id,
            "played_at": play.played_at,
            "track_id": play.track_id,
            "source": "api",
            "context_uri": play.context_uri,
            "artist_id": track.artist_ids[0],
            "duration_ms": track.duration_ms,
            "release_date": track.release_date,
        }
        for user_id, played in plays.items()
        for play, track in played
    ]
    if not rows:
        return []
    statement = insert_rows(t.plays, rows)
    facts = ("source", "context_uri", "artist_id", "duration_ms", "release_date")
    inserted = conn.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id", "played_at", "track_id"],
            set_={name: statement.excluded[name] for name in facts} | {"ms_played": None},
            where=t.plays.c.source == "export",
        ).returning(t.plays.c.user_id, t.plays.c.played_at)
    )
    return [(row.user_id, row.played_at) for row in inserted]


def complete_plays(conn: Connection, user_ids: Collection[str]) -> list[tuple[str, datetime]]:
    """Fill in what these users' API plays lack and the catalogue knows by now.

    For example the length of a track that Spotify once sent without one. A value that a play has
    is never changed. Returns (user_id, played_at) of the plays completed.
    """
    p, k = t.plays, t.tracks
    values = {
        "artist_id": func.coalesce(p.c.artist_id, k.c.artist_ids[1]),
        "duration_ms": func.coalesce(p.c.duration_ms, k.c.duration_ms),
        "release_date": func.coalesce(p.c.release_date, k.c.release_date),
    }
    learned = or_(
        p.c.artist_id.is_(None),
        and_(p.c.duration_ms.is_(None), k.c.duration_ms.is_not(None)),
        and_(p.c.release_date.is_(None), k.c.release_date.is_not(None)),
    )
    # The predicate of the partial index.
    incomplete = and_(
        p.c.source == "api",
        or_(p.c.artist_id.is_(None), p.c.duration_ms.is_(None), p.c.release_date.is_(None)),
    )
    completed = conn.execute(
        update(p)
        .where(
            any_of(p.c.user_id, user_ids),
            p.c.track_id == k.c.spotify_id,
            incomplete,
            learned,
        )
        .values(values)
        .returning(p.c.user_id, p.c.played_at)
    ).all()
    if completed:
        counters = t.listening_tallies
        users = {row.user_id for row in completed}
        conn.execute(
            update(counters).where(counters.c.user_id.in_(users)).values(personality_key=None)
        )
    return [(row.user_id, row.played_at) for row in completed]


def read_stored_plays(
    conn: Connection, since: Mapping[str, datetime]
) -> dict[str, list[StoredPlay]]:
    """Each user's API plays since an instant of theirs, in order, with all instants shown."""
    if not since:
        return {}
    p, k, r = t.plays, t.tracks, t.restamped_plays
    users = array_rows("users", user_id=(Text(), since), since=(_INSTANT, since.values()))
    same = and_(
        r.c.user_id == p.c.user_id, r.c.played_at == p.c.played_at, r.c.track_id == p.c.track_id
    )
    shown = (
        select(func.array_agg(aggregate_order_by(r.c.shown_at, r.c.noticed_at, r.c.shown_at)))
        .where(same)
        .correlate(p)
        .scalar_subquery()
    )
    rows = conn.execute(
        select(
            p.c.user_id,
            p.c.played_at,
            p.c.track_id,
            k.c.isrc,
            k.c.name,
            p.c.artist_id,
            shown.label("shown"),
        )
        .join_from(
            p,
            users,
            # A play that was re-stamped to later instants is stored before them.
            (p.c.user_id == users.c.user_id)
            & (p.c.played_at >= users.c.since - MOVED_WITHIN)
            & (p.c.source == "api"),
        )
        .join(k, k.c.spotify_id == p.c.track_id)
        .order_by(p.c.user_id, p.c.played_at, p.c.track_id)
    )
    stored: dict[str, list[StoredPlay]] = {user_id: [] for user_id in since}
    for row in rows:
        recording = Recording(row.track_id, row.isrc, row.name, row.artist_id)
        shown_at = (row.played_at, *(row.shown or ()))
        stored[row.user_id].append(StoredPlay(row.played_at, recording, shown_at))
    return stored


def save_restamped(
    conn: Connection, restamped: Mapping[str, tuple[datetime, Sequence[Restamped]]]
) -> None:
    """Store the other instants under which a page, fetched at an instant, showed stored plays."""
    rows = [
        {
            "user_id": user_id,
            "shown_at": moved.play.played_at,
            "shown_track_id": moved.play.track_id,
            "played_at": moved.stored.played_at,
            "track_id": moved.stored.recording.track_id,
            "noticed_at": fetched_at,
        }
        for user_id, (fetched_at, moves) in restamped.items()
        for moved in moves
    ]
    if rows:
        conn.execute(insert_rows(t.restamped_plays, rows).on_conflict_do_nothing())


def read_next_plays(
    conn: Connection, plays: Collection[tuple[str, datetime]]
) -> list[tuple[str, datetime]]:
    """The play after each of these (user_id, played_at): its listened time depends on them."""
    p = t.plays
    user_ids, instants = [user_id for user_id, _ in plays], [played_at for _, played_at in plays]
    given = array_rows("given", user_id=(Text(), user_ids), played_at=(_INSTANT, instants))
    after = (
        select(func.min(p.c.played_at))
        .where(p.c.user_id == given.c.user_id, p.c.played_at > given.c.played_at)
        .correlate(given)
        .scalar_subquery()
    )
    rows = conn.execute(select(given.c.user_id, after).distinct())
    return [(user_id, played_at) for user_id, played_at in rows if played_at is not None]


def read_plays(conn: Connection, windows: Mapping[str, Window]) -> "pd.DataFrame":
    """Plays of each user within their half-open UTC window (None: all plays), by user and time.

    The user's play before the window comes along, because the first one's estimate needs it.
    Columns as PLAY_DTYPES: ms_played is NA for API plays; artist_id, duration_ms and release_date
    are those of the track when the play was stored.
    """
    plays = t.plays
    window = _reading(windows)
    statement = (
        select(*(plays.c[name] for name in PLAY_DTYPES))
        .join_from(plays, window, _is_inside(window, with_previous=True))
        .order_by(plays.c.user_id, plays.c.played_at, plays.c.track_id)
    )
    rows = conn.execute(statement).all() if windows else []
    return frame(rows, PLAY_DTYPES).astype(PLAY_DTYPES)


def summarize_plays(conn: Connection, windows: Mapping[str, Window]) -> dict[str, PlaysSummary]:
    """Sums up each user's plays in their half-open UTC window; users without any are left out.

    Only plays that count (see domain.listening.days.is_counted).
    """
    if not windows:
        return {}
    plays = t.plays
    window = _reading(windows)
    rows = conn.execute(
        select(
            plays.c.user_id,
            func.array_agg(plays.c.artist_id.distinct()).filter(plays.c.artist_id.is_not(None)),
            func.count(),
        )
        .join_from(plays, window, _is_inside(window))
        .where(or_(plays.c.source == "api", plays.c.ms_played >= COUNTED_FROM_MS))
        .group_by(plays.c.user_id)
    )
    return {user_id: PlaysSummary(artist_ids or [], plays) for user_id, artist_ids, plays in rows}


def _reading(windows: Mapping[str, Window]) -> TableValuedAlias:
    """The windows as a table: user_id, since, until."""
    spans = [span or ALWAYS for span in windows.values()]
    return array_rows(
        "reading",
        user_id=(Text(), windows),
        since=(_INSTANT, [since for since, _ in spans]),
        until=(_INSTANT, [until for _, until in spans]),
    )


def _is_inside(window: TableValuedAlias, *, with_previous: bool = False) -> ColumnElement[bool]:
    plays = t.plays
    since: ColumnElement[datetime] = window.c.since
    if with_previous:
        since = previous_play(window.c.user_id, since)
    return and_(
        plays.c.user_id == window.c.user_id,
        plays.c.played_at >= since,
        plays.c.played_at < window.c.until,
    )


ROWS = 20_000


def read_listens(
    conn: Connection, user_id: str | None = None, since: date | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Plays in order of their local date, in lists of at most ROWS; columns as in the view."""
    rows = conn.execution_options(yield_per=ROWS).execute(
        text(
            "SELECT * FROM spotify_pipeline.listens"
            " WHERE (CAST(:user_id AS text) IS NULL OR user_id = :user_id)"
            " AND (CAST(:since AS date) IS NULL OR local_date >= :since)"
            " ORDER BY local_date, user_id, played_at, track"
        ),
        {"user_id": user_id, "since": since},
    )
    for part in rows.mappings().partitions():
        yield [dict(row) for row in part]
