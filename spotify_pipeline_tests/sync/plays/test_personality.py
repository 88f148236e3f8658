"""The personality is recomputed if one of its inputs has changed, and only then.

Each test talks to Postgres as a sync does, in one transaction that is rolled back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from spotify_pipeline.domain.listening.coverage import Interval, merge
from spotify_pipeline.domain.model import Artist, Play, Track
from spotify_pipeline.domain.outcome import StepRows
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.listening.counters import Counts, read_counts
from spotify_pipeline.storage.listening.coverage import read_coverage
from spotify_pipeline.storage.listening.personality import lock_fingerprints
from spotify_pipeline.storage.listening.plays import insert_plays
from spotify_pipeline.sync.days import refresh_days
from spotify_pipeline.sync.personality import refresh_personality
from spotify_pipeline.sync.plays import StoredUser
from spotify_pipeline_tests.storage.rows import add_top

# Shortly before midnight in UTC, so that a little later is another day in some zones.
START = datetime(2026, 3, 4, 23, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ARTISTS = [f"a{n}" for n in range(40)]
ANNA = "anna"


def refresh_all(
    conn: Connection, zones: dict[str, str], now: datetime, *, always: bool = False
) -> dict[str, StepRows]:
    """Refreshes the personality of these users from the stored data."""
    coverage = read_coverage(conn, zones)
    users = [StoredUser(u, zone, coverage[u].until(now)) for u, zone in zones.items()]
    return refresh_personality(conn, users, now, always=always)


@dataclass
class Life:
    """Anna's data, written to the database step by step; `now` is the facts clock."""

    conn: Connection
    now: datetime = START
    zone: str = "UTC"
    listened: list[tuple[str, datetime]] = field(default_factory=list)
    tracks: dict[str, Track] = field(default_factory=dict)

    def begin(self) -> "Life":
        save_artists(self.conn, [Artist(name, name) for name in ARTISTS])
        dates = {"a1": "2026-02-01", "a2": "1999"}
        self.tracks = {
            name: Track(name, name, 200_000, (name,), release_date=dates.get(name))
            for name in ARTISTS
        }
        save_tracks(self.conn, self.tracks.values())
        self.conn.execute(insert(t.users).values(user_id=ANNA, timezone=self.zone))
        return self

    def listen(self, artist: int, plays: int, ago: timedelta = MINUTE) -> None:
        """Plays of one artist, the last one `ago`, and the days they fall on."""
        times = [self.now - ago - n * MINUTE for n in range(plays)]
        track = self.tracks[ARTISTS[artist]]
        new = insert_plays(self.conn, {ANNA: [(Play(at, track.spotify_id), track) for at in times]})
        user = StoredUser(ANNA, self.zone, new_plays=tuple(at for _, at in new))
        refresh_days(self.conn, [user], self.now)

    def be_observed(self, since: timedelta) -> None:
        """Adds coverage since then."""
        covers = read_coverage(self.conn, [ANNA])[ANNA].covers
        covers = merge([*covers, Interval(self.now - since, self.now)])
        self.conn.execute(delete(t.coverage))
        self.conn.execute(
            insert(t.coverage),
            [{"user_id": ANNA, "covered_from": c.start, "covered_to": c.end} for c in covers],
        )

    def be_listed(self, time_range: str, first: int, genre: str = "g0") -> None:
        """Stores a newly fetched list of 20 artists, from the `first`."""
        of = t.top_list_artists
        self.conn.execute(delete(of).where(of.c.time_range == time_range))
        for rank, name in enumerate(ARTISTS[first : first + 20], start=1):
            genres = [genre if rank > 1 else "g9"]
            columns = {"popularity": rank, "genres": genres, "fetched_at": self.now}
            add_top(self.conn, "artists", ANNA, rank, name, time_range=time_range, **columns)

    def move(self, zone: str) -> None:
        """Changes the zone; all days are recomputed."""
        self.zone = zone
        self.conn.execute(update(t.users).values(timezone=zone))
        refresh_days(self.conn, [StoredUser(ANNA, zone, days_stale=True)], self.now)

    def look(self, *, always: bool = False) -> bool:
        """Refreshes the personality; returns whether its row was written."""
        rows = refresh_all(self.conn, {ANNA: self.zone}, self.now, always=always)[ANNA]
        return bool(rows.new or rows.changed)

    def is_current(self) -> bool:
        """Whether a computation from all stored data gives the stored row."""
        with undone(self.conn):
            return not self.look(always=True)

    def key(self) -> str | None:
        return lock_fingerprints(self.conn, [ANNA])[ANNA].key


@contextmanager
def undone(conn: Connection) -> Iterator[None]:
    savepoint = conn.begin_nested()
    yield
    savepoint.rollback()


@pytest.fixture
def life(engine: Engine) -> Iterator[Life]:
    with engine.connect() as conn:
        yield Life(conn).begin()


_steps = st.one_of(
    st.tuples(
        st.just("listen"),
        st.integers(0, 3),
        st.integers(1, 60),
        st.sampled_from([MINUTE, 3 * HOUR, DAY, 3 * DAY, 30 * DAY, 90 * DAY, 400 * DAY]),
    ),
    st.tuples(st.just("be_observed"), st.sampled_from([HOUR, DAY, 30 * DAY, 250 * DAY])),
    st.tuples(
        st.just("be_listed"),
        st.sampled_from(["short_term", "medium_term", "long_term"]),
        st.integers(0, 3),
        st.sampled_from(["g0", "g1"]),
    ),
    st.tuples(
        st.just("move"), st.sampled_from(["UTC", "Asia/Kolkata", "Pacific/Apia", "Etc/GMT+12"])
    ),
    st.tuples(
        st.just("wait"), st.sampled_from([MINUTE, HOUR, 12 * HOUR, DAY, 2 * DAY, 34 * DAY, -HOUR])
    ),
)


@settings(
    max_examples=settings.default.max_examples // 5,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.tuples(_steps, st.booleans()), max_size=14))
def test_incremental_personality_equals_recomputation(engine: Engine, steps: list) -> None:
    with engine.connect() as conn:
        life = Life(conn).begin()
        for (name, *values), looked_at in steps:
            if name == "wait":
                life.now += values[0]
            else:
                getattr(life, name)(*values)
            if looked_at:
                life.look()
                assert life.is_current()
        life.look()
        assert life.is_current()
        plays, days = (
            conn.scalars(select(func.count()).select_from(table)).one()
            for table in (t.plays, t.daily_listening)
        )
        assert read_counts(conn, [ANNA])[ANNA] == Counts(plays, days)
        conn.rollback()


def test_unchanged_inputs_recompute_no_personality(life: Life, monkeypatch) -> None:
    life.listen(0, 60)
    life.be_observed(DAY)
    life.be_listed("short_term", 0)
    assert life.look()
    # Nothing is read for it either: any computation would raise here.
    monkeypatch.setattr("spotify_pipeline.sync.compute.music_personality", None)
    life.now += 20 * MINUTE
    life.be_observed(HOUR)
    life.be_listed("short_term", 0)
    assert not life.look()


@pytest.mark.parametrize(
    ("change", "computed_again"),
    [
        (lambda life: life.listen(1, 1, 3 * HOUR), True),
        (lambda life: life.listen(1, 1, 300 * DAY), True),
        (lambda life: life.move("Asia/Kolkata"), True),
        (lambda life: life.move("Etc/UTC"), True),
        (lambda life: life.be_listed("short_term", 1), True),
        (lambda life: life.be_listed("short_term", 0, "g7"), True),
        (lambda life: life.be_listed("long_term", 0), True),
        (lambda life: life.be_observed(3 * DAY), True),
        (lambda life: life.conn.execute(delete(t.plays)), True),
        (lambda life: life.conn.execute(delete(t.music_personality)), True),
        (lambda life: life.conn.execute(update(t.daily_listening).values(top_artist_id="x")), True),
        (lambda life: life.conn.execute(delete(t.daily_listening)), True),
        # Changes it does not read, or reads as the same values.
        (lambda life: life.conn.execute(update(t.daily_listening).values(minutes=1)), False),
        (lambda life: life.be_listed("short_term", 0), False),
        (lambda life: life.be_observed(MINUTE), False),
    ],
)
def test_a_change_of_any_input_recomputes_the_personality(life, change, computed_again) -> None:
    life.listen(0, 60)
    life.be_observed(DAY)
    life.be_listed("short_term", 0)
    life.look()
    before = life.key()
    change(life)
    outdated = life.key() is None
    life.look()
    assert (outdated or life.key() != before) == computed_again
    assert life.is_current()


def test_a_new_definition_version_recomputes_the_personality(life: Life, monkeypatch) -> None:
    life.look()
    monkeypatch.setattr(definition, "VERSION", definition.VERSION + 1)
    assert life.look()


# --- changes by time alone ----------------------------------------------------------------------


def row(life: Life) -> dict[str, object]:
    return dict(life.conn.execute(select(t.music_personality)).mappings().one())


def test_a_local_day_that_begins_moves_the_window_and_ends_streaks(life: Life) -> None:
    life.listen(0, 1)
    life.listen(0, 1, DAY)
    life.look()
    assert (row(life)["current_streak"], row(life)["window_end"].isoformat()) == (2, "2026-03-04")
    life.now += 29 * MINUTE
    assert not life.look()
    life.now += MINUTE
    assert life.look()
    assert (row(life)["current_streak"], row(life)["window_end"].isoformat()) == (2, "2026-03-05")
    life.now += DAY
    assert life.look()
    assert row(life)["current_streak"] == 0
    life.now += 26 * DAY
    life.look()
    assert row(life)["play_count"] == 0
    assert row(life)["longest_streak"] == 2


def test_the_day_begins_at_midnight_of_the_users_zone(life: Life) -> None:
    life.move("Asia/Kolkata")
    life.look()
    assert row(life)["window_end"].isoformat() == "2026-03-05"
    life.now += HOUR
    assert not life.look()


def test_a_top_list_grows_too_old_in_the_middle_of_a_day(life: Life) -> None:
    life.be_listed("medium_term", 0)
    life.now += 35 * DAY
    life.look()
    assert row(life)["mainstream_score"] is not None
    life.now += MINUTE
    assert life.look()
    assert row(life)["reasons"]["mainstream_score"] == "the medium_term list is older than 35 days"
    life.be_listed("medium_term", 0)
    assert life.look()
    assert row(life)["mainstream_score"] is not None


def test_the_instant_of_the_computation_moves_only_with_another_column(life: Life) -> None:
    life.listen(0, 60)
    life.look()
    before = row(life)
    life.now += MINUTE
    life.look(always=True)
    assert row(life) == before
    life.now += DAY
    life.look()
    assert row(life)["computed_at"] == life.now > before["computed_at"]


def test_each_of_several_users_is_refreshed_independently(life: Life) -> None:
    life.conn.execute(insert(t.users).values(user_id="bert", timezone="UTC"))
    zones = {ANNA: "UTC", "bert": "UTC"}
    assert refresh_all(life.conn, zones, life.now)["bert"].new == 1
    life.listen(0, 1)
    rows = refresh_all(life.conn, zones, life.now)
    assert (rows[ANNA].changed, rows["bert"].changed, rows["bert"].total) == (1, 0, 1)


# --- months ---------------------------------------------------------------------------------------


def months(life: Life) -> dict[str, dict[str, object]]:
    """The stored months without the instants of their computation."""
    m = t.music_personality_history
    rows = life.conn.execute(select(m).order_by(m.c.month)).mappings()
    return {
        f"{row['month']:%Y-%m}": {name: row[name] for name in row if name != "computed_at"}
        for row in rows
    }


def test_a_month_is_stored_when_it_is_over_as_the_personality_of_its_last_day(life: Life) -> None:
    life.now = datetime(2026, 3, 31, 20, tzinfo=UTC)
    life.be_observed(300 * DAY)
    for day in range(20):
        life.listen(day % 4, 5, day * DAY + MINUTE)
    life.look()
    assert months(life) == {}
    last = row(life)
    life.now += 5 * HOUR
    life.look()
    (month,) = months(life).values()
    assert (month["month"].isoformat(), month["window_end"]) == ("2026-03-01", last["window_end"])  # type: ignore[attr-defined]
    shared = {"play_count", *definition.LISTENING_METRICS} - {"listening_regularity"}
    assert {name: month[name] for name in shared} == {name: last[name] for name in shared}
    assert month["reasons"] == {
        name: why
        for name, why in last["reasons"].items()  # type: ignore[attr-defined]
        if name in definition.LISTENING_METRICS
    }


@settings(
    max_examples=settings.default.max_examples // 20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(
                st.just("listen"),
                st.integers(0, 3),
                st.integers(1, 60),
                st.sampled_from([MINUTE, 3 * DAY, 30 * DAY, 90 * DAY, 300 * DAY]),
            ),
            st.tuples(st.just("move"), st.sampled_from(["UTC", "Pacific/Apia", "Etc/GMT+12"])),
            st.tuples(st.just("wait"), st.sampled_from([HOUR, 2 * DAY, 34 * DAY])),
        ),
        min_size=2,
        max_size=8,
    )
)
def test_incremental_months_equal_recomputed_months(engine: Engine, steps: list) -> None:
    with engine.connect() as conn:
        life = Life(conn).begin()
        # Covered from beginning to end, because new coverage alone computes no month again.
        start = life.now - 400 * DAY
        life.conn.execute(
            insert(t.coverage).values(
                user_id=ANNA, covered_from=start, covered_to=life.now + 300 * DAY
            )
        )
        for name, *values in steps:
            if name == "wait":
                life.now += values[0]
            else:
                getattr(life, name)(*values)
            if name == "move":
                # As a sync does it: the user's days are stale.
                coverage = read_coverage(conn, [ANNA])[ANNA].until(life.now)
                user = StoredUser(ANNA, life.zone, coverage, days_stale=True)
                refresh_personality(conn, [user], life.now)
            else:
                life.look()
        kept = months(life)
        conn.execute(delete(t.music_personality_history))
        life.look(always=True)
        anew = months(life)
        # Of months before the last year none is computed, and none is thrown away.
        assert {month: kept[month] for month in anew} == anew
        conn.rollback()


def test_new_plays_of_a_month_compute_it_and_later_ones_again(life: Life) -> None:
    life.be_observed(300 * DAY)
    life.listen(0, 60, 40 * DAY)
    life.listen(0, 60, 10 * DAY)
    life.look()
    assert [month["play_count"] for month in months(life).values()] == [60, 60]
    life.listen(1, 210, 100 * DAY)
    life.look()
    after = months(life)
    assert list(after) == ["2025-11", "2025-12", "2026-01", "2026-02"]
    # A month rests on the plays of the half year before it, too: in January the artist was new.
    assert [month["artist_discovery_rate"] for month in after.values()] == [None, None, 1.0, 0.0]
    life.listen(2, 5, 40 * DAY)
    life.look()
    assert months(life)["2026-01"]["play_count"] == 65


def test_a_month_that_rests_on_deleted_plays_stays_as_it_was(life: Life) -> None:
    life.listen(0, 60, 40 * DAY)
    life.look()
    before = months(life)["2026-01"]
    life.conn.execute(delete(t.plays))
    coverage = read_coverage(life.conn, [ANNA])[ANNA]
    user = StoredUser(ANNA, "UTC", coverage, plays_from=life.now - 30 * DAY, days_stale=True)
    refresh_personality(life.conn, [user], life.now)
    assert months(life)["2026-01"] == before
