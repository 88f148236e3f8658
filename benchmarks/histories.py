"""Databases full of synthetic listening, filled by set-based SQL; and a Spotify without latency.

A user with a history has 40 plays a day for 250 days, all of them observed. Stored plays beyond
these 10,000 were imported, and lie in the 16 years before.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import URL, Connection, text

from spotify_pipeline.app import connect_user, register_user
from spotify_pipeline.domain.model import Artist, Play, PlaysPage, Profile, Track
from spotify_pipeline.domain.sealing import new_key, seal
from spotify_pipeline.settings import load_settings
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import init_db
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline

# The facts clock starts here.
NOW = datetime(2026, 3, 4, 0, 10, tzinfo=UTC)
ZONE = "Europe/Oslo"
ARTISTS, TRACKS = 500, 5_000
RECENT_PLAYS, RECENT_DAYS, OLDER_DAYS = 10_000, 250, 16 * 365
CLIENT_ID = "benchmark"

_CATALOGUE = (
    """INSERT INTO spotify_pipeline.artists (spotify_id, name)
    SELECT 'artist' || n, 'Artist ' || n FROM generate_series(0, :artists - 1) AS n""",
    """INSERT INTO spotify_pipeline.tracks
        (spotify_id, name, duration_ms, artist_ids, release_date)
    SELECT 'track' || n, 'Track ' || n, 120000 + n * 7919 % 180000,
        ARRAY['artist' || n % :artists], (date '2026-03-01' - n)::text
    FROM generate_series(0, :tracks - 1) AS n""",
)
# random()³: a few tracks are played much, most rarely.
_PLAYS = """
    INSERT INTO spotify_pipeline.plays (user_id, played_at, track_id, source, ms_played)
    SELECT :user_id, date_trunc('milliseconds', :until - (n + random() / 2) * :days / :plays
            * interval '1 day'),
        'track' || floor(:tracks * random() ^ 3), :source, :ms_played
    FROM generate_series(0.5, :plays - 0.5) AS n"""
_COVER = """
    INSERT INTO spotify_pipeline.coverage (user_id, covered_from, covered_to)
    VALUES (:user_id, :since, :until)"""
_TOP_ARTISTS = """
    WITH received AS (
        INSERT INTO spotify_pipeline.top_lists (user_id, kind, time_range, fetched_at)
        SELECT :user_id, 'artists', r, :until
        FROM unnest(ARRAY['short_term', 'medium_term', 'long_term']) AS r
        RETURNING time_range
    )
    INSERT INTO spotify_pipeline.top_list_artists (user_id, time_range, rank, spotify_id, name)
    SELECT :user_id, r.time_range, n, 'artist' || n, 'Artist ' || n
    FROM received AS r, generate_series(1, 20) AS n"""
# Other users, with a play on each of the last days.
_CROWD = (
    """INSERT INTO spotify_pipeline.users (user_id, timezone)
    SELECT 'user' || n, 'UTC' FROM generate_series(1, :users) AS n""",
    """INSERT INTO spotify_pipeline.plays (user_id, played_at, track_id, source)
    SELECT 'user' || n, date_trunc('milliseconds', :until - (k + random() / 2) * interval '1 day'),
        'track' || floor(:tracks * random() ^ 3), 'api'
    FROM generate_series(1, :users) AS n, generate_series(1, :plays) AS k""",
    """INSERT INTO spotify_pipeline.daily_listening (user_id, date, minutes, listened_ms, plays,
        unique_tracks, unique_artists, top_track_id, top_artist_id, completeness)
    SELECT user_id, played_at::date, 3 * count(*), 180000 * count(*), count(*), count(*), 1,
        min(track_id), 'artist1', 'complete'
    FROM spotify_pipeline.plays GROUP BY user_id, played_at::date""",
    """INSERT INTO spotify_pipeline.coverage (user_id, covered_from, covered_to)
    SELECT user_id, :until - interval '60 days', :until FROM spotify_pipeline.users""",
)


@dataclass
class InstantSpotify:
    """Serves each user's page from memory. The access token is the user's id."""

    pages: dict[str, PlaysPage] = field(default_factory=dict)

    def recently_played(self, access_token: str, *_: object) -> PlaysPage:
        return self.pages[access_token]

    def profile(self, access_token: str, *_: object) -> Profile:
        """The profile of the token's user; called only after a refresh."""
        return Profile(access_token, None, None)


@dataclass
class World:
    """A database, a pipeline on it whose clock is set by hand, and its Spotify."""

    pipeline: Pipeline
    spotify: InstantSpotify
    now: datetime = NOW

    def clock(self) -> datetime:
        return self.now

    def page(self, user_id: str, new_plays: int) -> None:
        """Sets the user's page: so many new plays, and an item known before."""
        tracks = [
            Track(
                f"track{n}", f"Track {n}", 120_000 + n * 7919 % 180_000, (f"artist{n % ARTISTS}",)
            )
            for n in range(new_plays)
        ]
        plays = tuple(
            Play(self.now - timedelta(minutes=4 * n + 1), track.spotify_id)
            for n, track in enumerate(tracks)
        )
        artists = tuple(Artist(one.artist_ids[0], "Artist") for one in tracks)
        times = (*(play.played_at for play in plays), self.now - timedelta(hours=1))
        self.spotify.pages[user_id] = PlaysPage(
            plays, tuple(tracks), artists, times, has_more=True, items=len(times)
        )

    def connect(self, user_id: str) -> None:
        """A user without plays, whose access token is valid for a day."""
        keyring = self.pipeline.keyring
        sealed = seal(keyring.public_key(keyring.current_id), user_id, user_id)
        with self.pipeline.engine.begin() as conn:
            register_user(conn, user_id, ZONE, None)
            connect_user(
                conn,
                user_id,
                client_id=CLIENT_ID,
                sealed_refresh_token=sealed,
                key_id=keyring.current_id,
                scopes=(),
                authorized_at=datetime.now(UTC),
            )
            conn.execute(
                text(
                    "UPDATE spotify_pipeline.user_tokens SET sealed_access_token = :sealed,"
                    " access_expires_at = now() + interval '1 day' WHERE user_id = :user_id"
                ),
                {"sealed": sealed, "user_id": user_id},
            )


@contextmanager
def world(url: URL) -> Iterator[World]:
    """Creates the schema and the catalogue in this database."""
    engine = make_engine(url)
    init_db(engine)
    with engine.begin() as conn:
        fill_catalogue(conn)
    engine.dispose()
    environ = {
        "SPOTIFY_PIPELINE_DATABASE_URL": url.render_as_string(hide_password=False),
        "SPOTIFY_PIPELINE_TOKEN_KEYS": new_key()[1],
        "SPOTIFY_CLIENT_ID": CLIENT_ID,
        "SPOTIFY_PIPELINE_CALLS_PER_30S": "0",
        "SPOTIFY_PIPELINE_CALLS_PER_DAY": "0",
    }
    with open_pipeline(load_settings(environ)) as pipeline:
        spotify = InstantSpotify()
        made = World(pipeline, spotify)
        made.pipeline = replace(pipeline, api=cast(SpotifyApi, spotify), now=made.clock)
        yield made


def fill_catalogue(conn: Connection) -> None:
    """Stores the tracks that users play, and their artists."""
    for statement in _CATALOGUE:
        conn.execute(text(statement), {"artists": ARTISTS, "tracks": TRACKS})


def fill_history(conn: Connection, user_id: str, plays: int, now: datetime = NOW) -> None:
    """Stores so many plays until `now`, with coverage and top artists, but without days."""
    recent = min(plays, RECENT_PLAYS)
    since = now - timedelta(days=RECENT_DAYS)
    parts: Sequence[Mapping[str, Any]] = (
        {"plays": recent, "days": RECENT_DAYS, "until": now, "source": "api", "ms_played": None},
        {
            "plays": plays - recent,
            "days": OLDER_DAYS,
            "until": since,
            "source": "export",
            "ms_played": 200_000,
        },
    )
    for part in parts:
        if part["plays"]:
            conn.execute(text(_PLAYS), {"user_id": user_id, "tracks": TRACKS, **part})
    for statement in (_COVER, _TOP_ARTISTS):
        conn.execute(text(statement), {"user_id": user_id, "since": since, "until": now})


def fill_crowd(conn: Connection, users: int, now: datetime = NOW, plays: int = 20) -> None:
    """Stores so many users with so many plays each, and their days."""
    for statement in _CROWD:
        values = {"users": users, "until": now, "tracks": TRACKS, "plays": plays}
        conn.execute(text(statement), values)
