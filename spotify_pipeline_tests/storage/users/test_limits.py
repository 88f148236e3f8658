"""Sizes of what an app may write: refused in one sentence, and held by the tables."""

from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from spotify_pipeline.app import connect_user, register_user
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import NOON, add_user, cause

LARGEST: dict[str, Any] = {
    "client_id": "ä" * 255,
    "sealed_refresh_token": b"s" * 8192,
    "key_id": "k" * 255,
    "scopes": ["s" * 39] * 100,
    "authorized_at": NOON,
}
TOO_LARGE: list[tuple[str, Any, str]] = [
    ("client_id", "x" * 256, "client_id is longer than 255 characters"),
    ("sealed_refresh_token", b"x" * 8193, "sealed_refresh_token is longer than 8192 bytes"),
    ("key_id", "x" * 256, "key_id is longer than 255 characters"),
    ("scopes", ["x"] * 101, "scopes has more than 100 names or 4096 bytes"),
    ("scopes", ["x" * 4097], "scopes has more than 100 names or 4096 bytes"),
]
NESTED = ("scopes", [["a", "b"], ["c", "d"]], "scopes has more than one dimension")


@pytest.fixture
def ada(connection: Connection) -> str:
    return add_user(connection)


def refusal(error: DBAPIError) -> tuple[str | None, str | None]:
    return cause(error).sqlstate, cause(error).diag.message_primary


def test_the_largest_connection_that_the_limits_allow_is_stored(
    connection: Connection, ada: str
) -> None:
    connect_user(connection, ada, **LARGEST)
    row = connection.execute(select(t.user_tokens)).mappings().one()
    assert {name: row[name] for name in LARGEST} == LARGEST


@pytest.mark.parametrize(("argument", "value", "complaint"), [*TOO_LARGE, NESTED])
def test_a_connection_beyond_a_limit_is_refused_in_one_sentence(
    connection: Connection, ada: str, argument: str, value: Any, complaint: str
) -> None:
    with pytest.raises(DBAPIError) as refused:
        connect_user(connection, ada, **LARGEST | {argument: value})
    said = f"The connection cannot be stored: {complaint}."
    assert refusal(refused.value) == ("22023", said)


@pytest.mark.parametrize(("column", "value", "_"), TOO_LARGE)
def test_the_table_enforces_the_limits_too(
    connection: Connection, ada: str, column: str, value: Any, _: str
) -> None:
    with pytest.raises(IntegrityError) as refused:
        connection.execute(insert(t.user_tokens).values(user_id=ada, **LARGEST | {column: value}))
    assert cause(refused.value).diag.constraint_name == f"ck_user_tokens_{column}"


@pytest.mark.parametrize("user_id", ["ada", "new"])
def test_a_display_name_has_at_most_255_characters(
    connection: Connection, ada: str, user_id: str
) -> None:
    register_user(connection, user_id, None, "ä" * 255)
    with pytest.raises(DBAPIError) as refused:
        register_user(connection, user_id, None, "x" * 256)
    assert refusal(refused.value) == ("22023", "A display name has at most 255 characters.")
    with pytest.raises(IntegrityError, match="ck_users_display_name"):
        connection.execute(update(t.users).values(display_name="x" * 256))


def test_a_time_zone_of_any_length_is_refused_in_one_sentence(
    connection: Connection, ada: str
) -> None:
    with pytest.raises(DBAPIError) as refused:
        register_user(connection, ada, "x" * 20_000_000, None)
    said = "There is no such time zone. Use an IANA name such as Europe/Berlin."
    assert refusal(refused.value) == ("22023", said)


@pytest.mark.parametrize("requested_by", ["", "x" * 256])
def test_requested_by_has_1_to_255_characters(
    connection: Connection, ada: str, requested_by: str
) -> None:
    with pytest.raises(DBAPIError) as refused:
        connection.execute(insert(t.sync_requests).values(user_id=ada, requested_by=requested_by))
    assert refusal(refused.value) == ("22023", "requested_by has 1 to 255 characters.")
