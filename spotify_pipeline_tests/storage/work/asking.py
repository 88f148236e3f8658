"""The two ways to ask for a sync, and what a refusal looks like."""

from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import cause, request_sync


def plain_insert(connection: Connection, user_id: str | None = "ada") -> int | None:
    """What an ORM would emit. The new id, or None."""
    statement = insert(t.sync_requests).values(user_id=user_id).returning(t.sync_requests.c.id)
    return connection.execute(statement).scalar()


def by_function(connection: Connection, user_id: str | None = "ada") -> int:
    """The id that request_sync() answers with."""
    return int(request_sync(connection, user_id).request_id)


Ask = Callable[..., int | None]

both_ways = pytest.mark.parametrize("ask", [by_function, plain_insert])


def open_ids(connection: Connection) -> list[int]:
    r = t.sync_requests
    return list(connection.scalars(select(r.c.id).where(r.c.status.in_(("queued", "running")))))


def refusal(connection: Connection, ask: Ask, user_id: str | None = "ada") -> psycopg.Error:
    """The error with which Postgres refuses."""
    with pytest.raises(DBAPIError) as refused:
        ask(connection, user_id)
    return cause(refused.value)


def seconds_to_wait(error: psycopg.Error) -> float:
    """From now to the instant in DETAIL."""
    instant = datetime.fromisoformat(str(error.diag.message_detail))
    return (instant - datetime.now(UTC)).total_seconds()
