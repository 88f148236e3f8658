"""The rules of the tables users and user_tokens: ids, zones, sync state, expiry of tokens."""

import unicodedata

import dagster as dg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import NOON, add_user, cause, request_sync

TOKEN = {
    "user_id": "ada",
    "client_id": "app",
    "sealed_refresh_token": b"sealed",
    "key_id": "k1",
    "authorized_at": NOON,
}


@pytest.fixture
def ada(connection: Connection) -> str:
    return add_user(connection)


@pytest.mark.parametrize("name", ["europe/berlin", "FOO+3", "", "Europe/Berlin ", "posixrules"])
def test_a_zone_that_python_would_not_know_is_refused(connection: Connection, name: str) -> None:
    with pytest.raises(IntegrityError, match="fk_users_timezone"):
        add_user(connection, timezone=name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("berlin", "There is no such time zone: did you mean Europe/Berlin?"),
        ("america/new york", "There is no such time zone: did you mean America/New_York?"),
        ("UTC+", "There is no such time zone. Use an IANA name such as Europe/Berlin."),
        ("", "There is no such time zone. Use an IANA name such as Europe/Berlin."),
    ],
)
def test_registering_with_a_wrong_zone_suggests_the_right_one(
    connection: Connection, name: str, sentence: str
) -> None:
    with pytest.raises(DBAPIError) as refused:
        connection.execute(
            text("SELECT spotify_pipeline.register_user('ada', :zone, NULL)"), {"zone": name}
        )
    assert cause(refused.value).diag.message_primary == sentence


def test_changing_the_zone_makes_the_days_stale(connection: Connection, ada: str) -> None:
    stale = select(t.users.c.days_stale)
    connection.execute(update(t.users).values(timezone="UTC", display_name="Ada"))
    assert connection.scalar(stale) is False
    connection.execute(update(t.users).values(timezone="Europe/London"))
    assert connection.scalar(stale) is True
    connection.execute(update(t.users).values(days_stale=False))
    assert connection.scalar(stale) is False


def test_every_user_has_a_sync_state_from_the_start(connection: Connection) -> None:
    add_user(connection, "ada")
    connection.execute(
        text(
            "INSERT INTO spotify_pipeline.users (user_id)"
            " SELECT 'u' || n FROM generate_series(1, 9) AS n"
        )
    )
    states = connection.execute(select(t.sync_state)).all()
    assert len(states) == 10
    assert {state.consecutive_failures for state in states} == {0}
    assert {state.last_synced_at for state in states} == {None}


@pytest.mark.parametrize(
    ("authorized", "expires"),
    [
        ("2026-01-31T23:30:00+00:00", "2026-07-31T23:30:00+00:00"),
        ("2026-08-31T00:00:00+00:00", "2027-02-28T00:00:00+00:00"),
        ("2026-03-29T02:30:00+02:00", "2026-09-29T00:30:00+00:00"),
    ],
)
def test_a_token_expires_six_months_after_authorization(
    connection: Connection, ada: str, authorized: str, expires: str
) -> None:
    connection.execute(text("SET TIME ZONE 'Europe/Berlin'"))  # which must not matter
    connection.execute(insert(t.user_tokens).values(TOKEN))
    connection.execute(update(t.user_tokens).values(authorized_at=text(f"'{authorized}'")))
    same = select(t.user_tokens.c.expires_at == text(f"CAST('{expires}' AS timestamptz)"))
    assert connection.scalar(same)
    connection.execute(update(t.user_tokens).values(expires_at=NOON))
    assert connection.scalar(select(t.user_tokens.c.expires_at)) == NOON


@pytest.mark.parametrize(
    "user_id",
    [
        " ",
        "a/b",
        "spotify:user:ada",
        "'; DROP TABLE users; --",
        "😀" * 255,
        "עדה",
        "a..b",
        "%s",
        "é",
    ],
)
def test_a_user_id_is_any_text(connection: Connection, user_id: str) -> None:
    add_user(connection, user_id)
    assert connection.scalars(select(t.users.c.user_id)).all() == [user_id]
    assert request_sync(connection, user_id).status == "queued"


def is_user_id(text: str) -> bool:
    """The rule in Python's words."""
    return (
        1 <= len(text) <= 255
        and "..." not in text
        and not any(unicodedata.category(character) == "Cc" for character in text)
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=260))
@example("")
@example("a...b")
@example("x" * 256)
@example("line\nbreak")
@example("\x7f")
@example("\x9f")
@example("\u2028\u00a0\u202e")
def test_a_user_id_is_refused_exactly_when_it_could_not_be_a_partition_or_a_log_line(
    connection: Connection, user_id: str
) -> None:
    broken = None
    try:
        connection.execute(insert(t.users).values(user_id=user_id))
    except DBAPIError as refusal:
        broken = cause(refusal).diag.constraint_name
    assert broken == (None if is_user_id(user_id) else "ck_users_user_id")
    if not broken:
        dg.StaticPartitionsDefinition([user_id])  # raises for keys that Dagster cannot take
        connection.execute(delete(t.users))
