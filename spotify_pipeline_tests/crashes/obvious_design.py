"""A naive pipeline that loses plays: proves that the crash tests detect such bugs.

It asks for plays after the newest stored one, computes a day from the fetched page only, commits
after each step, and stores any refresh token in the response.
"""

from collections import Counter, defaultdict
from contextlib import suppress
from datetime import date, datetime
from multiprocessing.connection import Connection
from typing import Any
from zoneinfo import ZoneInfo

import requests
from sqlalchemy import Engine, text

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline_tests.crashes.worker import Order, Report

TOKENS = "CREATE TABLE IF NOT EXISTS naive_tokens (user_id text PRIMARY KEY, refresh_token text)"
INSERT_TOKEN = "INSERT INTO naive_tokens VALUES (:user_id, :refresh_token) ON CONFLICT DO NOTHING"
ARTIST = (
    "INSERT INTO spotify_pipeline.artists (spotify_id, name) VALUES (:id, :name)"
    " ON CONFLICT DO NOTHING"
)
TRACK = (
    "INSERT INTO spotify_pipeline.tracks (spotify_id, name, duration_ms, artist_ids)"
    " VALUES (:id, :name, :duration_ms, ARRAY[:artist_id]) ON CONFLICT DO NOTHING"
)
PLAY = (
    "INSERT INTO spotify_pipeline.plays (user_id, played_at, track_id, source)"
    " VALUES (:user_id, :played_at, :id, 'api') ON CONFLICT DO NOTHING"
)
DAY = (
    "INSERT INTO spotify_pipeline.daily_listening (user_id, date, minutes, listened_ms, plays,"
    " unique_tracks, unique_artists, top_track_id, top_artist_id) VALUES (:user_id, :date,"
    " :minutes, :listened_ms, :plays, :unique_tracks, :unique_artists, :top_track_id,"
    " :top_artist_id) ON CONFLICT (user_id, date) DO UPDATE SET (minutes, listened_ms, plays,"
    " unique_tracks, unique_artists, top_track_id, top_artist_id) = (excluded.minutes,"
    " excluded.listened_ms, excluded.plays, excluded.unique_tracks, excluded.unique_artists,"
    " excluded.top_track_id, excluded.top_artist_id)"
)


class ObviousDesign:
    """Syncs as a naive first version would."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.engine: Engine = make_engine(environ["SPOTIFY_PIPELINE_DATABASE_URL"])
        self.simulator = Simulator(environ["SPOTIFY_API_URL"])
        self.session = requests.Session()
        self.access_tokens: dict[str, str] = {}
        self._execute(TOKENS)
        for listener in self.simulator.listeners():
            self._execute(
                INSERT_TOKEN, user_id=listener.user_id, refresh_token=listener.refresh_token
            )

    def sync(self, user_id: str) -> None:
        """Fetches the plays after the newest stored one, stores them and the days of the page."""
        newest = self._scalar(
            "SELECT max(played_at) FROM spotify_pipeline.plays WHERE user_id = :u", u=user_id
        )
        after = {"after": int(newest.timestamp() * 1000)} if newest else {}
        items = self._get(user_id, {"limit": 50, **after})["items"]
        for item in items:
            track = item["track"]
            for artist in track["artists"]:
                self._execute(ARTIST, id=artist["id"], name=artist["name"])
            about = {name: track[name] for name in ("id", "name", "duration_ms")}
            self._execute(TRACK, **about, artist_id=track["artists"][0]["id"])
            played_at = datetime.fromisoformat(item["played_at"])
            self._execute(PLAY, user_id=user_id, played_at=played_at, id=track["id"])
        zone = self._scalar(
            "SELECT timezone FROM spotify_pipeline.users WHERE user_id = :u", u=user_id
        )
        days: dict[date, list[Any]] = defaultdict(list)
        for item in items:
            local = datetime.fromisoformat(item["played_at"]).astimezone(ZoneInfo(zone))
            days[local.date()].append(item["track"])
        for day, tracks in days.items():
            self._write_day(user_id, day, tracks)

    def _write_day(self, user_id: str, day: date, tracks: list[Any]) -> None:
        plays_of = Counter(track["id"] for track in tracks)
        artists = Counter(track["artists"][0]["id"] for track in tracks)
        listened_ms = sum(track["duration_ms"] for track in tracks)
        self._execute(
            DAY,
            user_id=user_id,
            date=day,
            minutes=round(listened_ms / 60_000),
            listened_ms=listened_ms,
            plays=len(tracks),
            unique_tracks=len(plays_of),
            unique_artists=len(artists),
            top_track_id=plays_of.most_common(1)[0][0],
            top_artist_id=artists.most_common(1)[0][0],
        )

    def _get(self, user_id: str, query: dict[str, int]) -> Any:
        for _ in range(2):
            response = self.session.get(
                f"{self.simulator.url}/v1/me/player/recently-played",
                params=query,
                headers={"Authorization": f"Bearer {self.access_tokens.get(user_id)}"},
                timeout=10,
            )
            if response.status_code != 401:
                break
            self._refresh(user_id)
        response.raise_for_status()
        return response.json()

    def _refresh(self, user_id: str) -> None:
        token = self._scalar("SELECT refresh_token FROM naive_tokens WHERE user_id = :u", u=user_id)
        response = self.session.post(
            f"{self.simulator.url}/api/token",
            data={"grant_type": "refresh_token", "refresh_token": token},
            auth=(self.simulator.client_id, self.simulator.client_secret),
            timeout=10,
        )
        response.raise_for_status()
        grant = response.json()
        self.access_tokens[user_id] = grant["access_token"]
        if "refresh_token" in grant:
            self._execute(
                "UPDATE naive_tokens SET refresh_token = :token WHERE user_id = :u",
                token=grant["refresh_token"],
                u=user_id,
            )

    def _execute(self, statement: str, **parameters: object) -> None:
        with self.engine.begin() as conn:
            conn.execute(text(statement), parameters)

    def _scalar(self, statement: str, **parameters: object) -> Any:
        with self.engine.connect() as conn:
            return conn.scalar(text(statement), parameters)


def run_obvious_design(orders: Connection, environ: dict[str, str]) -> None:
    """Accepts the same orders and sends the same reports as the pipeline."""
    design = ObviousDesign(environ)
    orders.send(Report())
    with suppress(EOFError):
        while True:
            order: Order = orders.recv()
            results: dict[str, tuple[str, str | None]] = {}
            for user_id in order.user_ids:
                try:
                    design.sync(user_id)
                except requests.RequestException as error:
                    results[user_id] = ("failed", type(error).__name__)
                else:
                    results[user_id] = ("synced", None)
            orders.send(Report(results))
