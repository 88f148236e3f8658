"""Property test of the feed: each play is stored once, counted right, and never lost without a gap.

A plain loop without frames or SQL keeps its own record of what the pages showed.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, delete, insert, select, update

from spotify_pipeline.domain.listening.recordings import without_relinked
from spotify_pipeline.domain.model import Artist, Play, PlaysPage, Track
from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.listening.coverage import read_coverage
from spotify_pipeline.storage.users.queries import User
from spotify_pipeline.sync.days import refresh_days
from spotify_pipeline.sync.fetch import FetchedUser
from spotify_pipeline.sync.plays import StoredUser, store_plays
from spotify_pipeline_tests import expected_listening
from spotify_pipeline_tests.sync.pipeline_fixture import NOON

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
START = NOON - 20 * DAY
WINDOW, PAGE = 7 * DAY, 50


@dataclass(frozen=True)
class LifePlay:
    """A true play: its end, its recording, and from when until when the feed lists it."""

    number: int
    ended_at: datetime
    recording: int
    published_at: datetime
    vanishes_at: datetime | None = None


@dataclass(frozen=True)
class Life:
    """Plays and polls; from `restamps[i]` on, everything that ended before it is shown under an
    instant that is `shift` away; recordings are shown under another id in odd hours.
    """

    zone: str
    heard: tuple[LifePlay, ...]
    polls: tuple[datetime, ...]
    restamps: tuple[tuple[datetime, float], ...]
    relinked: frozenset[int]
    emptied: frozenset[int]

    def shown_at(self, heard: LifePlay, poll: datetime) -> datetime:
        """The instant under which a play is listed at a poll."""
        for since, shift in self.restamps:
            if since <= poll and heard.ended_at < since:
                # Not all by the same shift: a little more the older the play is.
                heard = replace(heard, ended_at=heard.ended_at + (shift + 0.1 * shift) * SECOND)
        return heard.ended_at

    def track(self, heard: LifePlay, poll: datetime) -> Track:
        """The track as sent with a play at a poll."""
        changed = poll.day % 2 == 0
        number = heard.recording
        relinked = number in self.relinked and poll.hour % 2 == 1
        emptied = number in self.emptied and changed
        return Track(
            f"track{number}{' relinked' if relinked else ''}",
            "" if emptied else f"Song {number}",
            None if emptied else 40_000 + 60_000 * (number % 5) + (1_000 if changed else 0),
            (f"artist{number % 3}",),
            isrc=f"ISRC{number}",
        )

    def page(self, poll: datetime) -> tuple[list[tuple[LifePlay, Play, Track]], bool]:
        """What the feed lists at a poll, newest first, and whether more plays lie behind it."""
        listed = [
            (heard, Play(self.shown_at(heard, poll), track.spotify_id), track)
            for heard in self.heard
            if heard.published_at <= poll < (heard.vanishes_at or poll + DAY)
            and poll - self.shown_at(heard, poll) < WINDOW
            for track in [self.track(heard, poll)]
        ]
        listed.sort(key=lambda item: item[1].played_at, reverse=True)
        return listed[:PAGE], len(listed) > PAGE


_recordings = st.integers(0, 12)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Two weeks of sessions: plays minutes apart, bursts within seconds, songs at one instant."""
    ends: dict[tuple[datetime, int], None] = {}
    for start in draw(st.lists(st.integers(0, 14 * 24 * 60), min_size=1, max_size=6)):
        at = START + start * timedelta(minutes=1)
        for _ in range(draw(st.integers(1, 30))):
            ends[at, draw(_recordings)] = None
            at += draw(st.sampled_from([0, 2, 35, 61, 100, 180, 240, 900])) * SECOND
    heard = []
    for number, (ended_at, recording) in enumerate(sorted(ends)):
        late = draw(st.sampled_from([0] * 8 + [10, 600])) * timedelta(minutes=1)
        gone = draw(st.integers(0, 30)) == 0
        published_at = ended_at + late
        heard.append(
            LifePlay(
                number,
                ended_at,
                recording,
                published_at,
                published_at + 30 * HOUR if gone else None,
            )
        )
    polls = sorted(
        START + minutes * timedelta(minutes=1)
        for minutes in draw(st.lists(st.integers(0, 16 * 24 * 60), min_size=1, max_size=14))
    )
    restamps = [
        (START + day * DAY, draw(st.sampled_from([-27.0, -13.0, -0.8, 21.0])))
        for day in sorted(draw(st.lists(st.integers(1, 15), max_size=2, unique=True)))
    ]
    return Life(
        draw(st.sampled_from(["Australia/Lord_Howe", "America/Los_Angeles", "UTC"])),
        tuple(heard),
        tuple(polls),
        tuple(restamps),
        frozenset(draw(st.sets(_recordings, max_size=3))),
        frozenset(draw(st.sets(_recordings, max_size=2))),
    )


def live(conn: Connection, user_id: str, life: Life) -> dict[int, list[datetime]]:
    """Stores the pages of all polls; returns under which instants each play was ever shown."""
    shown: dict[int, list[datetime]] = defaultdict(list)
    for poll in life.polls:
        listed, more = life.page(poll)
        for heard, play, _ in listed:
            shown[heard.number].append(play.played_at)
        tracks = {track.spotify_id: track for _, _, track in listed}
        save_tracks(conn, tracks.values())
        kept = list(without_relinked([(play, track) for _, play, track in listed]))
        page = PlaysPage(
            plays=tuple(play for play, _ in kept),
            tracks=tuple(tracks.values()),
            artists=(),
            item_times=tuple(play.played_at for _, play, _ in listed),
            has_more=more,
            items=len(listed),
        )
        user = User(user_id, life.zone, "connected", False, None, None, None)
        fetched = FetchedUser(user, poll, {RECENTLY_PLAYED: page})
        refresh_days(conn, store_plays(conn, [fetched], poll), poll)
    return shown


def read_days(conn: Connection, user_id: str) -> list[tuple[object, ...]]:
    d = t.daily_listening
    columns = [column for column in d.c if column.name not in ("user_id", "computed_at")]
    rows = conn.execute(select(*columns).where(d.c.user_id == user_id).order_by(d.c.date))
    return [tuple(row) for row in rows]


def milliseconds(plays: Iterable[tuple[object, ...]], zone: str) -> dict[date, int]:
    days: dict[date, int] = defaultdict(int)
    for (played_at, _), ms in expected_listening.listened_ms(plays).items():  # type: ignore[arg-type]
        days[played_at.astimezone(ZoneInfo(zone)).date()] += ms
    return dict(days)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(life=lives())
def test_any_feed_is_stored_once_and_counted_like_a_plain_loop(engine: Engine, life: Life) -> None:
    with engine.connect() as conn:
        save_artists(conn, [Artist(f"artist{n}", f"Artist {n}") for n in range(3)])
        conn.execute(insert(t.users).values(user_id="anna", timezone=life.zone))
        shown = live(conn, "anna", life)
        p = t.plays
        stored = conn.execute(
            select(p.c.played_at, p.c.track_id, p.c.ms_played, p.c.duration_ms).order_by(
                p.c.played_at
            )
        ).all()
        # Every play that a page showed is stored exactly once.
        recordings = {heard.number: heard.recording for heard in life.heard}
        left = {(row.played_at, row.track_id.split()[0]) for row in stored}
        assert len(left) == len(stored)
        unmatched = []
        for number, instants in shown.items():
            keys = [(instant, f"track{recordings[number]}") for instant in instants]
            found = next((key for key in keys if key in left), None)
            if found is None:
                unmatched.append((number, instants))
            else:
                left.discard(found)
        assert not unmatched
        assert not left
        # The days equal those of a plain loop, and those of a rebuild.
        assert {row[0]: row[2] for row in read_days(conn, "anna")} == milliseconds(
            (tuple(row) for row in stored), life.zone
        )
        incremental = read_days(conn, "anna")
        last = life.polls[-1]
        conn.execute(update(t.listening_tallies).values(plays=0))  # a rebuild recounts
        conn.execute(delete(t.daily_listening))
        coverage = read_coverage(conn, ["anna"])["anna"]
        user = StoredUser("anna", life.zone, coverage, plays_fetched_at=last, days_stale=True)
        refresh_days(conn, [user], last)
        assert read_days(conn, "anna") == incremental
        # What the feed listed by the first poll after its end is stored or lies in a gap.
        gaps = conn.execute(select(t.listening_gaps)).all()
        covers = conn.execute(select(t.coverage)).all()
        for heard in life.heard:
            first = next((poll for poll in life.polls if poll >= heard.ended_at), None)
            if heard.number in shown or first is None or heard.published_at > first:
                continue
            if heard.ended_at < life.polls[0] or (heard.vanishes_at or first) < first:
                continue
            assert any(g.gap_start <= heard.ended_at <= g.gap_end for g in gaps) or not any(
                c.covered_from <= heard.ended_at <= c.covered_to for c in covers
            ), heard
        conn.rollback()
