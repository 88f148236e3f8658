"""A pipeline on a fresh database, pointed at a simulated Spotify, and users who connect to it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from threading import Lock
from typing import Any

from sqlalchemy import URL, Table, select, text

from spotify_pipeline.app import register_user
from spotify_pipeline.domain.outcome import STEPS, UserOutcome
from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.control import CallRecord, ListenerInfo, Simulator
from spotify_pipeline.simulator.faults.refusals import Body
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.oauth import OAuthClient
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.connection import store_connection
from spotify_pipeline.sync.pipeline import Pipeline, open_pipeline
from spotify_pipeline.sync.users import sync_users

# A Wednesday. The simulator's clock and the facts clock are here until a test moves them.
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
SCOPES = ("user-read-recently-played", "user-top-read")

# A play for `serve_plays`: its end and its track.
Heard = tuple[datetime, str]
Dump = dict[str, list[tuple[object, ...]]]


@dataclass
class Clock:
    """The facts clock, set by hand."""

    instant: datetime = NOON

    def __call__(self) -> datetime:
        return self.instant


@dataclass
class Scenario:
    """The pipeline, the simulator, and the clock of both."""

    pipeline: Pipeline
    simulator: Simulator
    clock: Clock

    def at(self, instant: datetime) -> None:
        """Moves the clocks of the simulator and the pipeline."""
        self.clock.instant = instant
        self.simulator.set_clock(instant)

    def connect(self, user_id: str, timezone: str = "UTC", **listener: Any) -> ListenerInfo:
        """Registers and connects a user who has listened for two weeks."""
        # Computing the top lists of a whole year takes the simulator a second.
        listener.setdefault("since", (NOON - timedelta(days=14)).date())
        info = self.simulator.add_listener(user_id, timezone, **listener)
        self.hand_over(user_id, info.refresh_token, timezone=timezone)
        return info

    def hand_over(
        self,
        user_id: str,
        refresh_token: str,
        *,
        timezone: str | None = None,
        client_id: str | None = None,
    ) -> None:
        """Stores the token as the app does after a user has authorized it."""
        client_id = client_id or self.simulator.client_id
        with self.pipeline.engine.begin() as conn:
            register_user(conn, user_id, timezone, None)
            store_connection(
                conn, self.pipeline.keyring, user_id, refresh_token, client_id=client_id
            )

    def move(self, user_id: str, timezone: str) -> None:
        """Changes the user's time zone."""
        with self.pipeline.engine.begin() as conn:
            register_user(conn, user_id, timezone, None)

    def sync(
        self, *user_ids: str, steps: Sequence[str] = STEPS, **options: Any
    ) -> list[UserOutcome]:
        """Syncs these users once."""
        return sync_users(self.pipeline, user_ids, steps, **options)

    def sync_well(self, *user_ids: str, steps: Sequence[str] = STEPS) -> list[UserOutcome]:
        """Syncs these users once; everything must succeed."""
        outcomes = self.sync(*user_ids, steps=steps)
        assert {o.user_id: (o.result, o.failures) for o in outcomes} == dict.fromkeys(
            user_ids, ("synced", {})
        )
        return outcomes

    def serve_plays(
        self,
        user_id: str,
        heard: Sequence[Heard],
        *,
        more: bool = False,
        unusable: Sequence[datetime] = (),
        tracks: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        """Makes Spotify show exactly these plays, in the given order.

        `more`: there is a page behind them; `unusable`: those at these times have no track;
        `tracks`: fields of tracks that differ from those of `track_body`, by id.
        """
        for rule in self.simulator.faults():
            if (rule["kind"], rule["user_id"]) == ("body", user_id):
                self.simulator.clear_faults(rule["number"])
        body = plays_body(heard, tracks or {}) | {
            "next": "https://api.spotify.com/older" if more else None
        }
        for item, (played_at, _) in zip(body["items"], heard, strict=True):
            if played_at in unusable:
                item["track"] = None
        self.simulator.add_fault(
            Body(text=json.dumps(body)), endpoint="recently_played", user_id=user_id
        )

    def calls(self, endpoint: str | None = None, user_id: str | None = None) -> list[CallRecord]:
        """Calls to Spotify since the test began."""
        return [
            call
            for call in self.simulator.calls()
            if endpoint in (None, call.endpoint) and user_id in (None, call.user_id)
        ]

    def rows(self, table: Table, user_id: str | None = None) -> list[dict[str, Any]]:
        """The rows of a table (of a user), by primary key."""
        statement = select(table).order_by(*table.primary_key)
        if user_id is not None:
            statement = statement.where(table.c.user_id == user_id)
        with self.pipeline.engine.connect() as conn:
            return [dict(row) for row in conn.execute(statement).mappings()]

    def row(self, table: Table, user_id: str) -> dict[str, Any]:
        """The user's only row."""
        (row,) = self.rows(table, user_id)
        return row

    def minutes(self, user_id: str) -> dict[date, int]:
        """Minutes of the user's stored days."""
        return {row["date"]: row["minutes"] for row in self.rows(t.daily_listening, user_id)}

    def dump(self, *without: str, versions: bool = False) -> Dump:
        """Every row of every table except sync_state and the log of fetches, without these columns.

        `versions`: with xmin, so that a row rewritten with the same values differs too.
        """
        with self.pipeline.engine.connect() as conn:
            return {
                table.name: [
                    tuple(row)
                    for row in conn.execute(
                        select(
                            *(column for column in table.c if column.name not in without),
                            *([text(f"{table.name}.xmin::text")] if versions else []),
                        ).order_by(*table.primary_key)
                    )
                ]
                for table in t.metadata.sorted_tables
                if table.name not in ("sync_state", "fetch_log", "time_zones", "day_starts")
            }

    def execute(self, statement: str, **parameters: object) -> None:
        """Runs SQL as the operator, the app, or a test that corrupts something."""
        with self.pipeline.engine.begin() as conn:
            conn.execute(text(statement), parameters)

    def forget(self, user_id: str) -> None:
        """Forgets the user."""
        self.execute("DELETE FROM spotify_pipeline.users WHERE user_id = :u", u=user_id)

    def meanwhile(self, method: str, act: Callable[[], None]) -> "Scenario":
        """The same scenario, in which `act` runs once, right after the first call of `method`."""
        api, oauth = self.pipeline.api, self.pipeline.oauth
        changed = (
            {"oauth": Meanwhile(oauth, method, act)}
            if hasattr(oauth, method)
            else {"api": Meanwhile(api, method, act)}
        )
        return replace(self, pipeline=replace(self.pipeline, **changed))


class Meanwhile:
    """Forwards every call; after the first call of a method it runs `act` (to provoke races)."""

    def __init__(self, inner: object, method: str, act: Callable[[], None]) -> None:
        self._inner = inner
        self._method = method
        self._acts = [act]
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._inner, name)
        if name != self._method:
            return target

        def call(*args: Any, **options: Any) -> Any:
            answer = target(*args, **options)
            with self._lock:
                while self._acts:
                    self._acts.pop()()
            return answer

        return call


def track_body(track_id: str) -> dict[str, Any]:
    """A track of 3 minutes; `t1` is called "Song t1" and by the artist `by t1`."""
    return {
        "id": track_id,
        "name": f"Song {track_id}",
        "duration_ms": 180_000,
        "artists": [{"id": f"by {track_id}", "name": f"Singer of {track_id}"}],
        "album": {"id": f"album {track_id}", "name": "Album", "images": []},
    }


def plays_body(
    heard: Sequence[Heard], tracks: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A recently-played page; `tracks` has the fields that differ from `track_body`, by id."""
    changed = tracks or {}
    return {
        "items": [
            {
                "played_at": played_at.isoformat(timespec="milliseconds"),
                "track": track_body(track_id) | changed.get(track_id, {}),
                "context": None,
            }
            for played_at, track_id in heard
        ],
        "next": None,
        "cursors": None,
        "limit": 50,
    }


def environment(database: URL, simulator: Simulator, **more: str) -> dict[str, str]:
    """Variables of a pipeline on this database and simulator, with its own key, unlimited."""
    return {
        "SPOTIFY_PIPELINE_DATABASE_URL": database.render_as_string(hide_password=False),
        "SPOTIFY_PIPELINE_TOKEN_KEYS": new_key()[1],
        "SPOTIFY_PIPELINE_CALLS_PER_30S": "0",
        "SPOTIFY_PIPELINE_CALLS_PER_DAY": "0",
        **simulator.environment,
        **more,
    }


@contextmanager
def open_scenario(simulator: Simulator, environ: dict[str, str]) -> Iterator[Scenario]:
    """A pipeline opened from an environment, with back-off that takes no time."""
    clock = Clock()
    with open_pipeline(load_settings(environ), clock) as pipeline:
        settings = pipeline.settings
        transport = Transport(
            rate_limiter=pipeline.rate_limiter,
            connections=settings.connections,
            sleep=lambda _: None,
        )
        secret = settings.spotify_client_secret
        assert secret is not None
        yield Scenario(
            replace(
                pipeline,
                api=SpotifyApi(settings.api_url, transport),
                oauth=OAuthClient(
                    settings.accounts_url,
                    simulator.client_id,
                    secret.get_secret_value(),
                    transport,
                ),
            ),
            simulator,
            clock,
        )
        transport.close()


def put_right(simulator: Simulator) -> None:
    """Resets what a test may have changed in a simulator that others use too."""
    simulator.set_clock(NOON)
    simulator.clear_faults()
    simulator.set_limits()
    simulator.forget_calls()
