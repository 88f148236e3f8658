"""Property test: the tables do not depend on the order in which syncs and imports happen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, Table, insert, select, text

from spotify_pipeline.domain.listening.coverage import Interval
from spotify_pipeline.domain.listening.exported import ExportedTrack, named_id
from spotify_pipeline.domain.model import Artist, Play, PlaysPage, Track
from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.imports.merge import add_facts, compute_plays, stage_rows, staged_line
from spotify_pipeline.storage.listening.catalogue import (
    save_artists,
    save_exported_tracks,
    save_tracks,
)
from spotify_pipeline.storage.listening.coverage import add_imported, read_coverage
from spotify_pipeline.storage.users.queries import User
from spotify_pipeline.sync.days import refresh_days
from spotify_pipeline.sync.fetch import FetchedUser
from spotify_pipeline.sync.plays import StoredUser, store_plays
from spotify_pipeline_tests.sync.pipeline_fixture import NOON

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
TABLES: dict[Table, tuple[str, ...]] = {
    t.tracks: (),
    t.artists: (),
    t.plays: (),
    t.imported_plays: (),
    t.imported_tracks: (),
    t.coverage: (),
    t.daily_listening: ("computed_at",),
}


@dataclass(frozen=True)
class TruePlay:
    """A play as it was, and which lists show it."""

    ended_at: datetime
    song: int
    ms_played: int
    listed: bool
    extended: bool
    account: bool
    api_lag_ms: int
    offline: bool


# An event: a page, or rows of one format; the plays in it.
Event = tuple[str, tuple[TruePlay, ...]]


@st.composite
def events(draw: st.DrawFn) -> list[Event]:
    """Pages and imports of one life."""
    at = NOON - 60 * HOUR
    plays = []
    for _ in range(draw(st.integers(3, 25))):
        at += draw(st.sampled_from([31, 40, 180, 240, 3_600, 20_000])) * SECOND
        plays.append(
            TruePlay(
                at,
                draw(st.integers(0, 4)),
                draw(st.sampled_from([2_000, 31_000, 180_000])),
                draw(st.booleans()),
                draw(st.booleans()),
                draw(st.booleans()),
                draw(st.integers(-2_000, 2_000)),
                draw(st.integers(0, 9)) == 0,
            )
        )
    cut = draw(st.integers(0, len(plays)))
    listed = tuple(play for play in plays if play.listed)
    found: list[Event] = [("page", listed[:10]), ("page", listed[10:])]
    for part in (plays[:cut], plays[cut:], plays):
        found.append(("extended", tuple(play for play in part if play.extended)))
    found.append(("account", tuple(play for play in plays if play.account)))
    return [event for event in found if event[1]]


def shuffled(data: st.DataObject, life: list[Event]) -> list[Event]:
    """The events in another order, except that the API shows older pages first."""
    order = data.draw(st.permutations(life))
    pages = iter([event for event in life if event[0] == "page"])
    return [next(pages) if event[0] == "page" else event for event in order]


def shown_track(song: int, number: int) -> Track:
    """The track as the API sends it; songs 3 and 4 are by two artists of one name."""
    relinked = "b" if song == 1 and number % 2 else ""
    artist = f"artist{song % 5}"
    return Track(f"song{song}{relinked}", f"Song {song}", 200_000, (artist,), release_date="2001")


def singer(song: int) -> str:
    return f"Singer {min(song, 3)}"


def fetch(conn: Connection, plays: tuple[TruePlay, ...]) -> None:
    pages = [
        (Play(p.ended_at + p.api_lag_ms * timedelta(milliseconds=1), track.spotify_id), track)
        for number, p in enumerate(plays)
        for track in [shown_track(p.song, number)]
    ]
    save_artists(conn, [Artist(f"artist{p.song}", singer(p.song)) for p in plays])
    save_tracks(conn, [track for _, track in pages])
    page = PlaysPage(
        plays=tuple(play for play, _ in pages),
        tracks=tuple(track for _, track in pages),
        artists=(),
        item_times=tuple(play.played_at for play, _ in pages),
        has_more=True,
        items=50,
    )
    user = User("ada", "Europe/Oslo", "connected", False, None, None, None)
    fetched = FetchedUser(user, NOON, {RECENTLY_PLAYED: page})
    refresh_days(conn, store_plays(conn, [fetched], NOON), NOON)


def import_rows(conn: Connection, source: str, plays: tuple[TruePlay, ...]) -> None:
    ids = {
        p.song: f"song{p.song}" if source == "extended" else named_id(singer(p.song), str(p.song))
        for p in plays
    }
    names = [ExportedTrack(ids[song], f"Song {song}", singer(song), None) for song in sorted(ids)]
    save_exported_tracks(conn, names)
    ends = {p: p.ended_at if source == "extended" else p.ended_at.replace(second=0) for p in plays}
    lines = [
        staged_line(0, n, ends[p], ids[p.song], p.ms_played, source, _start(p, source))
        for n, p in enumerate(plays)
    ]
    stage_rows(conn, lines)
    if add_facts(conn, "ada", None):
        compute_plays(conn, "ada")
    add_imported(conn, "ada", [Interval(min(ends.values()), max(ends.values()))], NOON)
    conn.execute(text("DROP TABLE pg_temp.staged_rows, pg_temp.incoming"))
    rebuild(conn)


def _start(play: TruePlay, source: str) -> datetime | None:
    length = timedelta(milliseconds=play.ms_played)
    return play.ended_at - length if play.offline and source == "extended" else None


def rebuild(conn: Connection) -> None:
    coverage = read_coverage(conn, ["ada"])["ada"]
    user = StoredUser("ada", "Europe/Oslo", coverage, plays_fetched_at=NOON, days_stale=True)
    refresh_days(conn, [user], NOON)


def outcome(conn: Connection, order: list[Event]) -> Mapping[str, object]:
    """The tables after these events, rolled back."""
    with conn.begin_nested() as savepoint:
        conn.execute(insert(t.users).values(user_id="ada", timezone="Europe/Oslo"))
        for kind, plays in order:
            fetch(conn, plays) if kind == "page" else import_rows(conn, kind, plays)
        found = {}
        for table, without in TABLES.items():
            columns = [column for column in table.c if column.name not in without]
            rows = conn.execute(select(*columns).order_by(*table.primary_key))
            found[table.name] = [tuple(row) for row in rows]
        incremental = found["daily_listening"]
        rebuild(conn)
        columns = [column for column in t.daily_listening.c if column.name != "computed_at"]
        rows = conn.execute(select(*columns).order_by(*t.daily_listening.primary_key))
        assert incremental == [tuple(row) for row in rows]
        savepoint.rollback()
    return found


# Shrinking such a life takes minutes.
@settings(
    max_examples=10,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(life=events(), data=st.data())
def test_syncs_and_imports_in_any_order_give_equal_tables(
    engine: Engine, life: list[Event], data: st.DataObject
) -> None:
    order, other = shuffled(data, life), shuffled(data, life)
    with engine.connect() as conn:
        first, second = outcome(conn, order), outcome(conn, other)
        for name, rows in first.items():
            assert second[name] == rows, name
        conn.rollback()
