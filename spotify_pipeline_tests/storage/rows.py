"""Helpers that insert rows and request syncs."""

from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import Connection, Row, insert, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.app import connect_user
from spotify_pipeline.storage import tables as t

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def add_user(db: Connection, user_id: str = "ada", **columns: object) -> str:
    db.execute(insert(t.users).values({"user_id": user_id, "connection": "connected"} | columns))
    return user_id


def add_track(connection: Connection, track_id: str = "song") -> str:
    connection.execute(
        insert(t.tracks).values(
            spotify_id=track_id, name="Song", duration_ms=200_000, artist_ids=["artist"]
        )
    )
    return track_id


def add_top(
    connection: Connection,
    kind: str,
    user_id: str,
    rank: int,
    spotify_id: str,
    *,
    time_range: str = "short_term",
    fetched_at: datetime = NOON,
    **columns: object,
) -> None:
    """A line of a user's top list of `kind` artists or tracks; `fetched_at` is the whole list's."""
    key = {"user_id": user_id, "time_range": time_range}
    table = t.top_list_artists if kind == "artists" else t.top_list_tracks
    columns = {"name": spotify_id, **columns}
    if kind == "tracks":
        columns.setdefault("artist_name", "Artist")
    connection.execute(
        insert(table).values({**key, "rank": rank, "spotify_id": spotify_id} | columns)
    )
    received = postgresql.insert(t.top_lists).values(**key, kind=kind, fetched_at=fetched_at)
    connection.execute(
        received.on_conflict_do_update(
            index_elements=list(t.top_lists.primary_key), set_={"fetched_at": fetched_at}
        )
    )


def request_sync(connection: Connection, user_id: str | None = "ada") -> Row[Any]:
    """The one row that request_sync() answers with."""
    asked = text("SELECT * FROM spotify_pipeline.request_sync(:user_id)")
    return connection.execute(asked, {"user_id": user_id}).one()


def finish_request(
    connection: Connection, request_id: int, ago: str, error_code: str | None = None
) -> None:
    """The request ended so long ago ('59 minutes'): with success unless there is a code."""
    connection.execute(
        update(t.sync_requests)
        .where(t.sync_requests.c.id == request_id)
        .values(
            status="failed" if error_code else "succeeded",
            error_code=error_code,
            finished_at=text("clock_timestamp() - CAST(:ago AS interval)").bindparams(ago=ago),
        )
    )


def sync_status(connection: Connection, user_id: str = "ada") -> Row[Any]:
    """The user's row of sync_status."""
    return connection.execute(
        text("SELECT * FROM spotify_pipeline.sync_status WHERE user_id = :user_id"),
        {"user_id": user_id},
    ).one()


def cause(error: DBAPIError) -> psycopg.Error:
    """The error as Postgres reported it."""
    assert isinstance(error.orig, psycopg.Error)
    return error.orig


def connect(connection: Connection, user_id: str = "ada") -> None:
    """Connects a registered user as an app does; the token opens with no key."""
    connect_user(
        connection,
        user_id,
        client_id="app",
        sealed_refresh_token=b"sealed",
        key_id="k1",
        scopes=["a"],
        authorized_at=NOON,
    )
